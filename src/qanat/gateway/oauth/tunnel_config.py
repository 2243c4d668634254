"""Tunnel OAuth configuration: an authorization server inside the private network whose metadata cannot be changed.

The values replace what discovery would have found. Client credentials are only ever sent to a tunnel of the caller's
own, or to the origin the user signs in at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr, field_validator, model_validator

from qanat.config import Section
from qanat.gateway.oauth.model import AuthMethod, Endpoints, OAuthClient

_SCOPES = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*")


class TunnelOAuth(Section):
    """What the caller states instead of discovery."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str | None = None
    scopes: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    token_endpoint_auth_method: AuthMethod | None = None

    @field_validator("issuer", "authorization_endpoint", "token_endpoint", "registration_endpoint")
    @classmethod
    def check_url(cls, url: str | None) -> str | None:
        """Every URL is https, absolute and without user information or fragment."""
        if url is not None:
            split(url)
        return url

    @field_validator("issuer")
    @classmethod
    def check_issuer(cls, url: str) -> str:
        """Compared byte for byte, never dialled; internal names are fine."""
        if urlsplit(url).query:
            raise ValueError("must have no query")
        return url

    @field_validator("scopes")
    @classmethod
    def check_scopes(cls, scopes: str | None) -> str | None:
        if scopes is not None and not _SCOPES.fullmatch(scopes):
            raise ValueError("must be scopes separated by single spaces")
        return scopes

    @model_validator(mode="after")
    def check_client(self) -> TunnelOAuth:
        if not self.registration_endpoint and not self.client_id:
            raise ValueError("give a registration_endpoint, or the client_id of a client of your own")
        return self

    def endpoints(self, resource: str) -> Endpoints:
        """The same as discovered endpoints."""
        return Endpoints(
            self.issuer,
            self.authorization_endpoint,
            self.token_endpoint,
            self.registration_endpoint,
            resource=resource,
            scope=self.scopes,
        )

    def client(self) -> OAuthClient | None:
        """The caller's own client; None: register one."""
        if not self.client_id:
            return None
        secret = self.client_secret.get_secret_value() if self.client_secret is not None else None
        return OAuthClient(self.client_id, secret, self.token_endpoint_auth_method or default_method(secret))


def default_method(secret: str | None) -> AuthMethod:
    """With a secret HTTP Basic, without one nothing."""
    return "client_secret_basic" if secret else "none"


def split(url: str) -> SplitResult:
    """The parts of an https URL. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("must be an https:// URL")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise ValueError("must not contain user information or a fragment")
    return parts


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    parts = split(url)
    return parts.scheme, (parts.hostname or "").lower().rstrip("."), parts.port or 443


def problems(config: TunnelOAuth, is_tunnel: Callable[[str], bool], is_own: Callable[[str], bool]) -> list[str]:
    """What is wrong with where the endpoints are. `is_own` says whether a tunnel host belongs to the organization."""
    found = []
    if is_tunnel(origin(config.authorization_endpoint)[1]):
        found.append("authorization_endpoint: a browser cannot load a tunnel hostname; give one it can reach")
    for name in ("token_endpoint", "registration_endpoint"):
        url = getattr(config, name)
        if url is None:
            continue
        _, host, port = origin(url)
        if is_tunnel(host):
            if port != 443 or not is_own(host):
                found.append(f"{name}: is not behind a live tunnel of this organization")
        elif origin(url) != origin(config.authorization_endpoint):
            found.append(f"{name}: must be behind your tunnel, or on the origin of the authorization endpoint")
    return found
