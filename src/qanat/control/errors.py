"""What an operation may refuse, as errors that carry their HTTP answer.

`status` picks the envelope's `error.type`; `code` travels as `details.error_code` only where an error sets
`show_code`, because clients may rely on every code they can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qanat.errors import QanatError


@dataclass(eq=False)
class Refused(QanatError):
    """Base of every refusal of the control plane."""

    status = 400
    type: ClassVar[str] = "invalid_request_error"
    show_code: ClassVar[bool] = False
    should_retry: ClassVar[bool | None] = None
    """When not None, sent as `x-should-retry`: official SDKs would otherwise retry a 409 twice."""


@dataclass(eq=False)
class Invalid(Refused):
    """A value in a request is wrong. The message is `<field>: <reason>`; `field` empty means the request itself."""

    code = "invalid_request"
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


@dataclass(eq=False)
class AuthenticationFailed(Refused):
    """Missing, unknown, expired or revoked credential; and every denial of a token exchange."""

    code, status, type = "authentication_failed", 401, "authentication_error"
    message: str = "invalid or missing credential"

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class PermissionDenied(Refused):
    """The credential is good but does not reach this far."""

    code, status, type = "permission_denied", 403, "permission_error"
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class NotFound(Refused):
    """No such thing, or it belongs to another organization."""

    code, status, type = "not_found", 404, "not_found_error"
    what: str

    def __str__(self) -> str:
        return f"{self.what} not found"


@dataclass(eq=False)
class Conflict(Refused):
    """The thing exists already; trying again changes nothing."""

    code, status, type, should_retry = "conflict", 409, "conflict_error", False
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class TooLarge(Refused):
    """A request body above the limit."""

    code, status, type = "request_too_large", 413, "request_too_large"
    limit: int

    def __str__(self) -> str:
        return f"request body is larger than {self.limit} bytes"


@dataclass(eq=False)
class UnsupportedMediaType(Refused):
    """A body that is not JSON."""

    code, status = "unsupported_media_type", 415

    def __str__(self) -> str:
        return "content-type must be application/json"


@dataclass(eq=False)
class RateLimited(Refused):
    """Too many requests; `retry_after` in seconds."""

    code, status, type, retryable = "rate_limited", 429, "rate_limit_error", True
    retry_after: int

    def __str__(self) -> str:
        return f"rate limit exceeded, try again in {self.retry_after} s"


@dataclass(eq=False)
class StoreUnavailable(Refused):
    """The database does not answer."""

    code, status, type, retryable = "store_unavailable", 503, "api_error", True

    def __str__(self) -> str:
        return "storage is unavailable, try again"


@dataclass(eq=False)
class TunnelLimitExceeded(Refused):
    """The organization has as many live tunnels as it may."""

    code, show_code = "tunnel_limit_exceeded", True
    limit: int

    def __str__(self) -> str:
        return f"Organization already has the maximum of {self.limit} non-archived Tunnels"


@dataclass(eq=False)
class CertificateLimitExceeded(Refused):
    """The tunnel has as many live CA certificates as it may."""

    code, show_code = "tunnel_certificate_limit_exceeded", True
    limit: int

    def __str__(self) -> str:
        return f"tunnel already has the maximum of {self.limit} non-archived certificates"


@dataclass(eq=False)
class TunnelArchived(Refused):
    """The tunnel is archived: it can be read, nothing else."""

    code, show_code = "tunnel_archived", True

    def __str__(self) -> str:
        return "tunnel is archived"


@dataclass(eq=False)
class MasterKeyMissing(QanatError):
    """The master key file does not hold the key a secret was sealed under."""

    code = "master_key_missing"
    key_id: str

    def __str__(self) -> str:
        return f"master key {self.key_id} is not in the master key file"
