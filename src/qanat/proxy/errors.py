"""Answers the proxy makes itself: one table of what can go wrong, one body for all of it.

The body is a JSON-RPC error, so an MCP client shows its message. The status is never 404, 405 or 401 here: MCP clients
read those as statements of the server (404: "your session is gone"). Nothing in an answer names the private side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

from qanat.errors import QanatError
from qanat.log import Level
from qanat.net.http1 import Header


@dataclass(eq=False)
class ProxyError(QanatError):
    """A request that gets an answer from the proxy instead of one from the upstream.

    `code` is the answer's `type`, `message` is what a caller reads, `detail` goes to the log only.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    message: ClassVar[str] = "Internal error"
    log_level: ClassVar[Level] = "warn"
    log_phrase: ClassVar[str] = "request refused"
    retry_after: ClassVar[int | None] = None
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or self.message


class RouteNotFound(ProxyError):
    """No route serves the hostname; usually `tunnel_domain` is wrong."""

    code, status, message = "no_route", 502, "No route configured for host"
    log_phrase = "no route for host"


class AddressDenied(ProxyError):
    """`detail` is the address that was not permitted."""

    code, status, message = "upstream_ip_denied", 502, "Upstream address not allowed"
    log_level = "error"

    def __str__(self) -> str:
        return f"IP validation failed: {self.detail} is not a private address"


class ResolutionFailed(ProxyError):
    code, status, message = "upstream_dns", 502, "Upstream name did not resolve"
    log_level, log_phrase = "error", "upstream dns failed"


class ConnectFailed(ProxyError):
    code, status, message = "upstream_connect", 502, "Upstream connection failed"
    log_level, log_phrase = "error", "upstream connection failed"


class ConnectTimedOut(ProxyError):
    code, status, message = "upstream_connect_timeout", 504, "Upstream connection timed out"
    log_level, log_phrase = "error", "upstream connection timed out"


class UpstreamNotTrusted(ProxyError):
    code, status, message = "upstream_tls", 502, "Upstream certificate not trusted"
    log_level, log_phrase = "error", "upstream tls failed"


class UpstreamTimedOut(ProxyError):
    code, status, message = "upstream_timeout", 504, "Upstream did not answer in time"
    log_phrase = "upstream timed out"


class UpstreamBroken(ProxyError):
    code, status, message = "upstream_protocol", 502, "Upstream sent an invalid response"
    log_level, log_phrase = "error", "upstream sent an invalid response"


class BadRequest(ProxyError):
    code, status, message = "bad_request", 400, "Bad request"
    log_phrase = "bad request"


class Misdirected(ProxyError):
    code, status, message = "misdirected", 421, "Misdirected request"
    log_phrase = "misdirected request"


class URITooLong(ProxyError):
    code, status, message = "uri_too_long", 414, "Request target too long"
    log_phrase = "bad request"


class HeadersTooLarge(ProxyError):
    code, status, message = "headers_too_large", 431, "Request headers too large"
    log_phrase = "bad request"


class PathDenied(ProxyError):
    code, status, message = "path_denied", 403, "Path not allowed"
    log_phrase = "path not allowed"


class LoopDetected(ProxyError):
    code, status, message = "loop_detected", 508, "Request loop detected"
    log_phrase = "request loop detected"


class Overloaded(ProxyError):
    code, status, message = "overloaded", 503, "Too many requests in progress"
    log_phrase, retry_after = "overloaded", 1


class Draining(ProxyError):
    code, status, message = "draining", 503, "Proxy is restarting"
    log_level, log_phrase, retry_after = "info", "draining", 1


class UpgradeRequired(ProxyError):
    code, status, message = "upgrade_required", 426, "WebSocket upgrade required"
    log_level, log_phrase = "debug", "upgrade required"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the proxy's own, ready to be sent."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
    error_type: str = ""

    @property
    def reason(self) -> bytes:
        """The reason phrase that goes with the status."""
        return HTTPStatus(self.status).phrase.encode("ascii")


def to_reply(error: ProxyError, request_id: str) -> Reply:
    """The answer for an error."""
    data = {"type": error.code, "request_id": request_id}
    body = json.dumps(
        {"jsonrpc": "2.0", "id": None, "error": {"code": -32603, "message": error.message, "data": data}},
        separators=(",", ":"),
    ).encode()
    headers: list[Header] = [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"Server", b"mcp-proxy"),
        (b"X-Request-Id", request_id.encode("ascii")),
        (b"X-Mcp-Proxy-Error", error.code.encode("ascii")),
    ]
    if error.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % error.retry_after))
    return Reply(error.status, tuple(headers), body, error.code)
