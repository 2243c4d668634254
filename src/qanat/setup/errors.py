"""Why setup stops, in words that say what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qanat.api.http import APIRefused
from qanat.errors import QanatError

SignInKind = Literal["federation", "api_token"]

EXCHANGE_CHECKS = """authentication failed: the identity token was not accepted. Check, in this order:
  issuer    the token's "iss" equals the registered issuer's URL, byte for byte
  audience  the token's "aud" equals the rule's audience, byte for byte: "api.example.com" is not "https://api.example.com"
  subject   the token's "sub" matches the rule's subject (Kubernetes: system:serviceaccount:<namespace>:<name>)
  lifetime  the token is not expired, and not longer-lived than the issuer allows (1 h by default)
  JWKS      the issuer's keys are reachable for the API, and hold the key that signed the token
  ids       ANTHROPIC_FEDERATION_RULE_ID belongs to ANTHROPIC_ORGANIZATION_ID; the workspace is enabled on the rule"""


@dataclass(eq=False)
class SetupRefused(QanatError):
    """Setup will not go on; nothing was half-written. The text says what to change."""

    code = "setup_refused"
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False)
class Misused(QanatError):
    """Flags or environment do not fit together: exit code 2."""

    code = "misused"
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False)
class OutputFailed(QanatError):
    """The directory or Secret cannot be read or written."""

    code = "output_failed"
    text: str

    def __str__(self) -> str:
        return self.text


def explain_exchange(error: APIRefused) -> SetupRefused:
    """What a refused token exchange means."""
    if error.http_status == 401:
        return SetupRefused(f"{EXCHANGE_CHECKS}\n  request   {error.request_id or 'unknown'}")
    return SetupRefused(f"the token exchange was refused: {error}")


def explain(error: APIRefused, kind: SignInKind) -> SetupRefused:
    """What a refused call to the Tunnels API means, for the way we signed in."""
    if error.http_status in (401, 403) and kind == "api_token":
        cause = "API_TOKEN was refused: the key is revoked, expired, or belongs to another organization"
        return SetupRefused(f"{cause}: {error}")
    if error.http_status in (401, 403):
        cause = "signed in, but not allowed: the rule's scope lacks workspace:manage_tunnels, or the service account"
        return SetupRefused(f"{cause} is not a member of the tunnel's workspace: {error}")
    if error.http_status == 404:
        return SetupRefused(f"the tunnel is unknown in this workspace: {error}")
    return SetupRefused(str(error))
