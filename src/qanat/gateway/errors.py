"""What a caller of the Messages API sees when something goes wrong: a status, a type, a sentence.

One table for the whole gateway; parts of it raise `APIError` and the server writes it, as an HTTP answer before the
first byte of a response and as an `error` event after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qanat.errors import QanatError

TYPE_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STATUS_BY_TYPE = {kind: status for status, kind in reversed(TYPE_BY_STATUS.items())}


@dataclass(eq=False)
class APIError(QanatError):
    """An error in the API's own form. `error_code` is the machine-readable cause in `error.details`, if any."""

    http_status: int
    message: str
    error_type: str = ""
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.error_type = self.error_type or TYPE_BY_STATUS.get(self.http_status, "api_error")
        super().__post_init__()

    def __str__(self) -> str:
        return self.message

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body, which is also the data of an `error` event."""
        error: dict[str, Any] = {"type": self.error_type, "message": self.message}
        details = dict(self.details)
        if self.error_code is not None:
            details["error_code"] = self.error_code
        if details:
            error["details"] = details
        return {"type": "error", "error": error, "request_id": request_id}


def invalid(message: str, error_code: str | None = None) -> APIError:
    """The request cannot be served as it is: 400."""
    return APIError(400, message, error_code=error_code)


def not_found(message: str) -> APIError:
    """There is no such thing: 404."""
    return APIError(404, message)


def internal(message: str = "Internal server error") -> APIError:
    """Our fault, or our upstream's in a way the caller cannot mend: 500."""
    return APIError(500, message)


def overloaded(message: str = "Overloaded") -> APIError:
    """The model behind us has no room: 529."""
    return APIError(529, message)


def too_long() -> APIError:
    """Nothing was said before time ran out: 504."""
    return APIError(504, "The request took too long")


def connection_failed(index: int, name: str) -> APIError:
    """An MCP server could not be reached. One text for every cause, so that it cannot be used to probe."""
    return invalid(
        f"mcp_servers[{index}] '{name}': Connection error while communicating with MCP server. "
        "The server may be unavailable or unresponsive."
    )


def server_failed(index: int, name: str, reason: str) -> APIError:
    """An MCP server answered, but not as one should."""
    return invalid(f"mcp_servers[{index}] '{name}': Connection error while communicating with MCP server: {reason}")


def authentication_failed(index: int, name: str) -> APIError:
    """An MCP server answered 401 or 403."""
    return invalid(
        f"mcp_servers[{index}] '{name}': Authentication error while communicating with MCP server. "
        "Please check your authorization token."
    )
