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
from qanat.logger import Level
from qanat.net.http1_fields import Header


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
    """The upstream's address is not in the allow list; nothing was dialled."""

    code, status, message = "upstream_ip_denied", 502, "Upstream address not allowed"
    log_level = "error"

    def __str__(self) -> str:
        return f"IP validation failed: {self.detail} is not a private address"


class ResolutionFailed(ProxyError):
    """The upstream's name has no address in `upstream.ip_families`, or the resolver did not say within 5 s."""

    code, status, message = "upstream_dns", 502, "Upstream name did not resolve"
    log_level, log_phrase = "error", "upstream dns failed"


class ConnectFailed(ProxyError):
    """The upstream refused the connection or cannot be reached; the log has the system's reason."""

    code, status, message = "upstream_connect", 502, "Upstream connection failed"
    log_level, log_phrase = "error", "upstream connection failed"


class ConnectTimedOut(ProxyError):
    """No connection within `timeouts.connect`."""

    code, status, message = "upstream_connect_timeout", 504, "Upstream connection timed out"
    log_level, log_phrase = "error", "upstream connection timed out"


class UpstreamNotTrusted(ProxyError):
    """TLS with the upstream failed: its CA is not trusted, or its name is another one."""

    code, status, message = "upstream_tls", 502, "Upstream certificate not trusted"
    log_level, log_phrase = "error", "upstream tls failed"


class UpstreamTimedOut(ProxyError):
    """A limit that the route's `timeouts` ask for was reached."""

    code, status, message = "upstream_timeout", 504, "Upstream did not answer in time"
    log_phrase = "upstream timed out"


class UpstreamBroken(ProxyError):
    """The upstream closed the connection before it answered, or sent what is no HTTP."""

    code, status, message = "upstream_protocol", 502, "Upstream sent an invalid response"
    log_level, log_phrase = "error", "upstream sent an invalid response"


class BadRequest(ProxyError):
    """The request is malformed, or two programs could read it differently."""

    code, status, message = "bad_request", 400, "Bad request"
    log_phrase = "bad request"


class Misdirected(ProxyError):
    """The TLS session was opened for another name, and the two do not belong together."""

    code, status, message = "misdirected", 421, "Misdirected request"
    log_phrase = "misdirected request"


class URITooLong(ProxyError):
    """The request line is longer than 16 KiB."""

    code, status, message = "uri_too_long", 414, "Request target too long"
    log_phrase = "bad request"


class HeadersTooLarge(ProxyError):
    """The header block is larger than 64 KiB, or has more than 200 fields."""

    code, status, message = "headers_too_large", 431, "Request headers too large"
    log_phrase = "bad request"


class PathDenied(ProxyError):
    """The route lists `paths`, and this is none of them."""

    code, status, message = "path_denied", 403, "Path not allowed"
    log_phrase = "path not allowed"


class LoopDetected(ProxyError):
    """The request has been through this proxy five times already."""

    code, status, message = "loop_detected", 508, "Request loop detected"
    log_phrase = "request loop detected"


class Overloaded(ProxyError):
    """One of the `limits`, or the route's `max_in_flight`, is reached."""

    code, status, message = "overloaded", 503, "Too many requests in progress"
    log_phrase, retry_after = "overloaded", 1


class Draining(ProxyError):
    """The proxy is shutting down."""

    code, status, message = "draining", 503, "Proxy is restarting"
    log_level, log_phrase, retry_after = "info", "draining", 1


class UpgradeRequired(ProxyError):
    """A plain request on the listener, which takes WebSocket upgrades only."""

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
