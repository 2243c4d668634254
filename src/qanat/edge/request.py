"""The one request a client sends: an HTTP/1.1 WebSocket upgrade. Parsed here, sans I/O.

Only `sec-websocket-*` headers are taken over. Everything else a client sends ends at the edge, so no header of its
choosing (`cf-cloudflared-*`, `cf-int-*`) can reach a connector.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import httptools

from qanat.edge.errors import BadRequest, EdgeRefused, HeadersTooLarge, UnknownHost, UpgradeRequired
from qanat.tunnel.connection import Headers, RequestHead, StreamKind

INTERNAL_PREFIXES = ("cf-cloudflared-", "cf-int-", "x-qanat-")


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A client's request, cleaned. `host` is lowercase, without port."""

    host: str
    path: str
    headers: Headers
    """The `sec-websocket-*` ones."""
    internal: dict[str, str]
    """`x-qanat-*` headers: meaningful only between nodes of one cluster."""
    stripped: int
    """How many internal headers a client tried to set."""
    rest: bytes
    """What came after the head."""

    def to_stream_head(self) -> RequestHead:
        """The head that travels to the connector."""
        headers = (*self.headers, ("accept-encoding", "identity"))
        return RequestHead(StreamKind.WEBSOCKET, "GET", self.host, self.path, headers)


def split_host(host: str) -> tuple[str, str]:
    """Route and tunnel domain of `<route>.<domain>`: exactly one label is cut off. Raises `UnknownHost`."""
    route, dot, domain = host.partition(".")
    if not route or not dot or not domain or len(host) > 253:
        raise UnknownHost
    return route, domain


class UpgradeParser:
    """Feed it bytes cut anywhere; `feed` gives the request once its head is whole. Raises `EdgeRefused`."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._data = bytearray()

    def feed(self, data: bytes) -> UpgradeRequest | None:
        """The request, or None while its head is incomplete."""
        start = max(0, len(self._data) - 3)
        self._data += data
        if self._data[:1] == b"\x16":
            raise BadRequest  # TLS within TLS
        end = self._data.find(b"\r\n\r\n", start)
        if end < 0 or end + 4 > self._max_size:
            if len(self._data) > self._max_size or end >= 0:
                raise HeadersTooLarge
            return None
        return _parse(bytes(self._data[: end + 4]), bytes(self._data[end + 4 :]))


class _Collector:
    """What httptools calls while it parses."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))


def _parse(head: bytes, rest: bytes) -> UpgradeRequest:
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        raise BadRequest from None
    headers = collector.headers
    _check_upgrade(parser.get_method(), parser.get_http_version(), headers)
    path = collector.url.decode("latin-1")
    if not path.startswith("/"):
        raise BadRequest  # absolute and authority forms would carry a second host
    return UpgradeRequest(
        host=_host(headers),
        path=path,
        headers=tuple((name, value) for name, value in headers if name.startswith("sec-websocket-")),
        internal={name: value for name, value in headers if name.startswith("x-qanat-")},
        stripped=sum(name.startswith(INTERNAL_PREFIXES) for name, _ in headers),
        rest=rest,
    )


def _check_upgrade(method: bytes, version: str, headers: list[tuple[str, str]]) -> None:
    values = dict(headers)
    upgrade = values.get("upgrade", "").lower() == "websocket" and "upgrade" in values.get("connection", "").lower()
    if method != b"GET" or version != "1.1" or not upgrade or values.get("sec-websocket-version") != "13":
        raise UpgradeRequired
    if "content-length" in values or "transfer-encoding" in values:
        raise BadRequest
    try:
        if len(base64.b64decode(values.get("sec-websocket-key", ""), validate=True)) != 16:
            raise BadRequest
    except (binascii.Error, ValueError):
        raise BadRequest from None


def _host(headers: list[tuple[str, str]]) -> str:
    hosts = [value for name, value in headers if name == "host"]
    if len(hosts) != 1:
        raise BadRequest
    host, _, port = hosts[0].partition(":")
    if port and not port.isdigit():
        raise BadRequest
    host = host.rstrip(".").lower()
    if not host or not all(character.isalnum() or character in "-._" for character in host) or not host.isascii():
        raise BadRequest
    return host


def response_101(headers: Headers) -> bytes:
    """The head that accepts a client's upgrade, with the proxy's `sec-websocket-*` headers."""
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower().startswith("sec-websocket-")]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


def response_error(error: EdgeRefused) -> bytes:
    """A refusal as a whole response; the connection closes after it."""
    body = error.to_json()
    lines = [
        f"HTTP/1.1 {error.status} {_REASONS.get(error.status, 'Error')}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Qanat-Error: {error.code}",
        f"X-Qanat-Hop: {error.hop}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if error.retryable:
        lines.append("Retry-After: 1")
    if error.status == 426:
        lines.append("Upgrade: websocket")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
