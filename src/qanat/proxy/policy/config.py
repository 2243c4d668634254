"""The keys a route may add: `auth`, `headers`, `tools`, `methods`, `rate_limit`, `audit`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from qanat.config import Duration, Section
from qanat.proxy.networks import Networks
from qanat.proxy.policy.credentials import HeaderRules
from qanat.proxy.policy.ratelimit import RateLimit
from qanat.proxy.policy.tools import ToolPolicy

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
"""Asymmetric only: a shared secret cannot tell an issuer from a caller."""


def _https(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or parts.fragment:
        raise ValueError(f'must be an https URL without a fragment, not "{value}"')
    return value


HTTPSURL = Annotated[str, AfterValidator(_https)]


class Introspection(Section):
    """Ask the authorization server about each token (RFC 7662), for tokens that are not JWTs."""

    url: HTTPSURL
    client_id: str
    client_secret_file: Path
    cache: Duration = timedelta(seconds=60)

    @model_validator(mode="after")
    def _cap_cache(self) -> Introspection:
        if self.cache > timedelta(seconds=60):
            raise ValueError("cache: at most 60s, or a revoked token would live on")
        return self


class AuthConfig(Section):
    """`auth:` of a route: the proxy is its OAuth resource server (RFC 9728), in front of a server that is none."""

    mode: Literal["off", "oauth"] = "off"
    resource: HTTPSURL | None = None
    """What tokens are for. Default: the route's URL with its first path."""
    authorization_servers: tuple[HTTPSURL, ...] = ()
    issuer: HTTPSURL | None = None
    """`iss` of the tokens, byte for byte. Default: the first authorization server."""
    jwks_uri: HTTPSURL | None = None
    """Default: as the authorization server's metadata says."""
    audience: tuple[str, ...] = ()
    """Accepted `aud` values. Default: the resource."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256")
    required_scopes: tuple[str, ...] = ()
    tool_scopes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    leeway: Duration = timedelta(seconds=30)
    strict_type: bool = False
    forward: Literal["strip", "pass"] = "strip"
    """`pass` hands the caller's token to the upstream: only where both share the audience."""
    identity_headers: dict[str, str] = Field(
        default_factory=lambda: {"X-Mcp-Subject": "sub", "X-Mcp-Client": "client_id", "X-Mcp-Scopes": "scope"}
    )
    """Header name to claim."""
    introspection: Introspection | None = None
    legacy_as_metadata: bool = False
    allowed_ips: Networks | None = None
    """Where the authorization server may be. Default: what upstreams may be, and public addresses."""
    ca_file: Path | None = None
    """Trusted for the authorization server, beside the system's."""

    @model_validator(mode="after")
    def _complete(self) -> AuthConfig:
        if self.mode == "oauth" and not self.authorization_servers:
            raise ValueError("authorization_servers is required with mode: oauth")
        if self.mode == "oauth" and self.introspection is not None and self.jwks_uri is not None:
            raise ValueError("introspection and jwks_uri are mutually exclusive")
        return self


class ToolsConfig(Section):
    """`tools:` of a route."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


class MethodsConfig(Section):
    """`methods:` of a route: JSON-RPC methods."""

    deny: tuple[str, ...] = ()


class RateLimitConfig(Section):
    """`rate_limit:` of a route. Each replica counts for itself."""

    requests: int = Field(ge=1)
    per: Duration
    burst: int | None = Field(None, ge=1)
    key: Literal["route", "subject", "session"] = "route"

    @property
    def limit(self) -> RateLimit:
        """The bucket these numbers describe."""
        return RateLimit(self.requests, max(self.per.total_seconds(), 1e-3), self.burst or self.requests)


class AuditConfig(Section):
    """`audit:` of a route. Routes that name the same file share one chain."""

    file: str
    """`stdout`, or an absolute path."""
    include: tuple[Literal["tool", "arguments_hash", "subject"], ...] = ("tool", "subject")
    required: bool = False
    """Refuse requests (503) while the log cannot be written."""
    key_file: Path | None = None
    """Makes the chain an HMAC: whoever lacks the key cannot rebuild it."""

    @model_validator(mode="after")
    def _absolute(self) -> AuditConfig:
        if self.file != "stdout" and not self.file.startswith("/"):
            raise ValueError(f'file: must be stdout or an absolute path, not "{self.file}"')
        return self


class PolicyConfig(Section):
    """All of it, as part of a route."""

    auth: AuthConfig = AuthConfig()
    headers: HeaderRules = HeaderRules()
    tools: ToolsConfig | None = None
    methods: MethodsConfig | None = None
    rate_limit: RateLimitConfig | None = None
    audit: AuditConfig | None = None

    @property
    def tool_policy(self) -> ToolPolicy | None:
        """What may be called, if anything is restricted."""
        if self.tools is None and self.methods is None:
            return None
        tools, methods = self.tools or ToolsConfig(), self.methods or MethodsConfig()
        return ToolPolicy(tools.allow, tools.deny, methods.deny)

    @property
    def reads_bodies(self) -> bool:
        """Whether the route's requests have to be understood."""
        return self.tool_policy is not None or self.audit is not None or bool(self.auth.tool_scopes)

    @property
    def empty(self) -> bool:
        """Whether the route needs no filter at all."""
        plain_headers = not self.headers.remove and not self.headers.set
        return self.auth.mode == "off" and plain_headers and not self.reads_bodies and self.rate_limit is None
