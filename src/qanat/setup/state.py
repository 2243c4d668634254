"""What an output holds: the files' names and modes, and their meaning. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from pydantic import SecretStr

from qanat.ids import TunnelID
from qanat.pki.material import CertificateRefused, Pair, PrivateKey, belong_together, load_certificate, load_key

Changes = Mapping[str, bytes | None]
"""File name to new content; None deletes. Applied in order, and all or none."""

TUNNEL_ID, TUNNEL_DOMAIN, TUNNEL_TOKEN = "tunnel-id", "tunnel-domain", "tunnel-token"
CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
TOKEN_VERSION = "token-version"  # noqa: S105 - a file name
CREATING = ".creating"
"""Present from before a tunnel is created until its id is stored: how to find the one an interrupted run made."""

NAMES = (
    *(TUNNEL_ID, TUNNEL_DOMAIN, TUNNEL_TOKEN, CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY),
    *(TOKEN_VERSION, CREATING),
)
PUBLIC_MODE, SECRET_MODE = 0o644, 0o600
MODES = dict.fromkeys(NAMES, PUBLIC_MODE) | dict.fromkeys((TUNNEL_TOKEN, CA_KEY, SERVER_KEY), SECRET_MODE)


@dataclass(frozen=True)
class Intent:
    """A tunnel is about to be created: its display name, when, and which of that name were there before."""

    display_name: str
    started_at: datetime
    existing: tuple[TunnelID, ...]

    def to_bytes(self) -> bytes:
        fields = {
            "display_name": self.display_name,
            "started_at": self.started_at.astimezone(UTC).isoformat(),
            "existing": list(self.existing),
        }
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Intent | None:
        """None when the text is not ours."""
        try:
            fields = json.loads(data)
            existing = tuple(TunnelID(str(item)) for item in fields["existing"])
            return cls(str(fields["display_name"]), datetime.fromisoformat(fields["started_at"]), existing)
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Certified:
    """A stored certificate with its key, if the key is there and fits; else what is wrong."""

    certificate: x509.Certificate | None = None
    key: PrivateKey | None = field(default=None, repr=False)
    problem: str | None = None
    present: bool = False

    @property
    def pair(self) -> Pair | None:
        return Pair(self.certificate, self.key) if self.certificate and self.key else None


@dataclass(frozen=True)
class Stored:
    """The meaning of an output's files."""

    tunnel_id: TunnelID | None
    domain: str | None
    token: SecretStr | None = field(repr=False)
    token_version: str | None
    ca: Certified
    server: Certified
    creating: Intent | None


def interpret(files: Mapping[str, bytes]) -> Stored:
    """What `files` mean. Never raises: what cannot be used is described in `problem`."""
    identity, token = _text(files, TUNNEL_ID), _text(files, TUNNEL_TOKEN)
    return Stored(
        tunnel_id=TunnelID(identity) if identity else None,
        domain=_text(files, TUNNEL_DOMAIN),
        token=SecretStr(token) if token else None,
        token_version=_text(files, TOKEN_VERSION),
        ca=_certified(files, CA_CERTIFICATE, CA_KEY),
        server=_certified(files, SERVER_CERTIFICATE, SERVER_KEY),
        creating=Intent.from_bytes(files[CREATING]) if CREATING in files else None,
    )


def _text(files: Mapping[str, bytes], name: str) -> str | None:
    return files.get(name, b"").decode("utf-8", "replace").strip() or None


def _certified(files: Mapping[str, bytes], certificate_name: str, key_name: str) -> Certified:
    certificate_pem, key_pem = files.get(certificate_name, b""), files.get(key_name, b"")
    if not certificate_pem and not key_pem:
        return Certified()
    if not certificate_pem:
        return Certified(problem=f"{key_name} is there but {certificate_name} is not", present=True)
    try:
        certificate = load_certificate(certificate_pem)
        key = load_key(key_pem) if key_pem else None
    except CertificateRefused as refusal:
        return Certified(problem=str(refusal), present=True)
    if key is not None and not belong_together(certificate, key):
        return Certified(problem=f"{key_name} does not belong to {certificate_name}", present=True)
    return Certified(certificate, key, present=True)


def ca_files(ca: Pair) -> dict[str, bytes | None]:
    return {CA_KEY: ca.key_pem, CA_CERTIFICATE: ca.certificate_pem}


def server_files(server: Pair) -> dict[str, bytes | None]:
    """The key first: a proxy that looks in between finds the old certificate without its key, and keeps its pair."""
    return {SERVER_KEY: server.key_pem, SERVER_CERTIFICATE: server.certificate_pem}
