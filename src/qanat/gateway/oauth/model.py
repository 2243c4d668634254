"""What a sign-in is made of: the endpoints of an authorization server, a client there, and a stored credential."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from qanat.errors import QanatError

AuthMethod = Literal["none", "client_secret_basic", "client_secret_post"]
REFRESH_EARLY = 60.0
"""Seconds before its end at which a token is replaced."""


@dataclass(eq=False)
class SignInFailed(QanatError):
    """A sign-in cannot go on. `error` is the authorization server's own code, or one of ours; both fit for users."""

    code: ClassVar[str] = "sign_in_failed"
    status: ClassVar[int] = 400
    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} [{self.error}]"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """An authorization server, as discovered or as configured."""

    issuer: str
    authorization: str
    token: str
    registration: str | None = None
    revocation: str | None = None
    resource: str = ""
    """What the token is for (RFC 8707)."""
    scope: str | None = None
    sends_issuer: bool = False
    """Whether its redirects carry `iss` (RFC 9207)."""
    takes_client_documents: bool = False
    """Whether a client id may be the URL of a document (CIMD)."""


@dataclass(frozen=True, slots=True, repr=False)
class OAuthClient:
    """Who we are at an authorization server."""

    client_id: str
    client_secret: str | None = None
    method: AuthMethod = "none"


class Credential(BaseModel):
    """A stored credential: everything needed to use it, refresh it and give it back. Never shown."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    kind: Literal["oauth", "static_bearer"]
    access_token: str
    refresh_token: str | None = None
    expires_at: float | None = None
    """Seconds since the epoch; None when the server did not say: then it is used until it is refused."""
    lifetime: float = 0.0
    """Seconds it was issued for."""
    scope: str | None = None
    resource: str = ""
    issuer: str = ""
    token_endpoint: str = ""
    revocation_endpoint: str | None = None
    client_id: str = ""
    client_secret: str | None = None
    method: AuthMethod = "none"
    needs_sign_in: bool = False
    """The authorization server refused the refresh: only the user can help."""
    missing_scope: str | None = None
    """What the MCP server wants beyond `scope`; the next sign-in asks for both."""

    def __repr__(self) -> str:
        return f"Credential({self.kind})"

    __str__ = __repr__

    @property
    def client(self) -> OAuthClient:
        return OAuthClient(self.client_id, self.client_secret, self.method)

    def is_due(self, now: float) -> bool:
        """Whether it should be refreshed before use."""
        if self.refresh_token is None or self.expires_at is None:
            return False
        # A short-lived token would always be due otherwise.
        return now > self.expires_at - min(REFRESH_EARLY, self.lifetime / 2)


def granted(endpoints: Endpoints, client: OAuthClient, answer: dict[str, Any], now: float) -> Credential:
    """The credential a token endpoint's answer amounts to. Raises `SignInFailed`."""
    token, kind = answer.get("access_token"), answer.get("token_type")
    if not isinstance(token, str) or not token or not isinstance(kind, str) or kind.lower() != "bearer":
        raise SignInFailed("invalid_token_response", "The authorization server issued no bearer token.")
    lifetime = _seconds(answer.get("expires_in"))
    return Credential(
        kind="oauth",
        access_token=token,
        refresh_token=_text(answer.get("refresh_token")),
        expires_at=None if lifetime is None else now + lifetime,
        lifetime=lifetime or 0.0,
        scope=_text(answer.get("scope")) or endpoints.scope,
        resource=endpoints.resource,
        issuer=endpoints.issuer,
        token_endpoint=endpoints.token,
        revocation_endpoint=endpoints.revocation,
        client_id=client.client_id,
        client_secret=client.client_secret,
        method=client.method,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(value: object) -> float | None:
    """A lifetime; some servers write the number as text. None for what is no length of time: then it is unknown."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


def refreshed(old: Credential, answer: dict[str, Any], now: float) -> Credential:
    """The credential after a refresh; the old refresh token stays when no new one came. Raises `SignInFailed`.

    A refresh brings no scope that was missing: what the server wants beyond it stays noted.
    """
    endpoints = Endpoints(old.issuer, "", old.token_endpoint, revocation=old.revocation_endpoint, resource=old.resource)
    new = granted(replace(endpoints, scope=old.scope), old.client, answer, now)
    kept = {"refresh_token": new.refresh_token or old.refresh_token, "missing_scope": old.missing_scope}
    return new.model_copy(update=kept)
