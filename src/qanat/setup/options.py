"""What setup was asked to do: flags over environment, checked before anything is touched. Pure.

An empty variable counts as unset: Compose hands unset names through as empty strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from qanat.api.http import check_base_url
from qanat.config import parse_duration
from qanat.errors import ConfigInvalid
from qanat.ids import TunnelID, is_well_formed
from qanat.pki.issue import KeyType
from qanat.setup.errors import Misused, SignInKind

DEFAULT_CERT_DURATION = "2160h"
DEFAULT_TIMEOUT = "2m"
DEFAULT_SECRET = "k8s-secret:mcp-tunnel"  # noqa: S105 - the name of an object
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_IDENTITY_TOKEN = 16 * 1024
MAX_NAME = 255


@dataclass(frozen=True)
class SignIn:
    """How to sign in: with a ready key, or by exchanging an identity token."""

    api_token: SecretStr | None = field(default=None, repr=False)
    rule_id: str = ""
    organization_id: str = ""
    workspace_id: str | None = None
    service_account_id: str | None = None
    identity_token: SecretStr | None = field(default=None, repr=False)
    identity_token_file: Path | None = None

    @property
    def kind(self) -> SignInKind:
        return "api_token" if self.api_token else "federation"


@dataclass(frozen=True)
class InitOptions:
    """Everything `setup init` needs to know besides what is stored."""

    api_url: str
    sign_in: SignIn
    tunnel_id: TunnelID | None = None
    tunnel_name: str = "mcp-tunnel"
    token_version: str | None = None
    cert_duration: timedelta = timedelta(days=90)
    key_type: KeyType | None = None
    """None: like the key that is replaced, ECDSA P-256 for the first."""
    new_ca: bool = False
    trust: Path | None = None


def setting(flag: str | None, environ: Mapping[str, str], name: str) -> str | None:
    """The flag, else the variable, else None; an empty one is none."""
    return flag or environ.get(name) or None


def sign_in(environ: Mapping[str, str]) -> SignIn:
    """The credentials in the environment. Raises `Misused` unless there is exactly one way to sign in."""
    token, rule = environ.get("API_TOKEN"), environ.get("ANTHROPIC_FEDERATION_RULE_ID")
    organization = environ.get("ANTHROPIC_ORGANIZATION_ID")
    given, file = environ.get("ANTHROPIC_IDENTITY_TOKEN"), environ.get("ANTHROPIC_IDENTITY_TOKEN_FILE")
    if token and (rule or organization or given or file):
        raise Misused("set either API_TOKEN or ANTHROPIC_FEDERATION_RULE_ID, not both")
    if token:
        return SignIn(api_token=SecretStr(token.strip()))
    if not rule and not organization:
        raise Misused("no credentials: set API_TOKEN, or ANTHROPIC_FEDERATION_RULE_ID and ANTHROPIC_ORGANIZATION_ID")
    if not rule or not organization:
        missing = "ANTHROPIC_ORGANIZATION_ID" if rule else "ANTHROPIC_FEDERATION_RULE_ID"
        raise Misused(f"{missing} is required to sign in with an identity token")
    if bool(given) == bool(file):
        found = "both are" if given else "neither is"
        names = "ANTHROPIC_IDENTITY_TOKEN and ANTHROPIC_IDENTITY_TOKEN_FILE"
        raise Misused(f"set exactly one of {names}: {found} set")
    return SignIn(
        rule_id=rule,
        organization_id=organization,
        workspace_id=environ.get("ANTHROPIC_WORKSPACE_ID") or None,
        service_account_id=environ.get("ANTHROPIC_SERVICE_ACCOUNT_ID") or None,
        identity_token=SecretStr(given.strip()) if given else None,
        identity_token_file=Path(file) if file else None,
    )


def api_url(flag: str | None, environ: Mapping[str, str]) -> str:
    """The API's base URL. Raises `Misused`."""
    text = setting(flag, environ, "API_URL")
    if text is None:
        raise Misused("--api-url (or API_URL) is required")
    try:
        return check_base_url(text)
    except ConfigInvalid as error:
        raise Misused(f"--{error}") from None


def tunnel_id(flag: str | None, environ: Mapping[str, str]) -> TunnelID | None:
    """The tunnel asked for, if any. Raises `Misused`."""
    text = setting(flag, environ, "TUNNEL_ID")
    if text is not None and not is_well_formed("tnl", text):
        raise Misused(f"--tunnel-id: not a tunnel id: {text!r} (it looks like tnl_…)")
    return None if text is None else TunnelID(text)


def tunnel_name(flag: str | None, environ: Mapping[str, str], place: str) -> str:
    """The display name a new tunnel gets; `place` is this host's or namespace's short name."""
    name = setting(flag, environ, "TUNNEL_NAME") or f"mcp-tunnel-{place}"
    if len(name) > MAX_NAME:
        raise Misused(f"--tunnel-name: at most {MAX_NAME} characters")
    return name


def duration(flag: str, text: str) -> timedelta:
    """A flag's duration. Raises `Misused`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Misused(f"--{flag}: {error}") from None


def cert_duration(text: str) -> timedelta:
    """How long a server certificate shall live. Raises `Misused` for nothing at all."""
    found = duration("cert-duration", text)
    if found < timedelta(minutes=1):
        raise Misused("--cert-duration: at least one minute")
    return found


def output(flag: str | None, *, in_pod: bool) -> str:
    """The output asked for; inside a pod there is a default. Raises `Misused`."""
    if flag:
        return flag
    if in_pod:
        return DEFAULT_SECRET
    raise Misused("--output is required outside a pod: dir:/path or k8s-secret:NAME")


def in_pod(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> bool:
    """Whether this process runs in a pod that may talk to its cluster."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (service_account / "token").is_file()
