"""Stream heads over QUIC: between the tunnel's `RequestHead` and `ResponseHead`, and the messages on the wire."""

from __future__ import annotations

from urllib.parse import urlsplit

from qanat.errors import ProtocolError
from qanat.tunnel.connection import Headers, RequestHead, ResponseHead, StreamKind
from qanat.wire.quic_stream import ConnectRequest, ConnectResponse, ConnectType, Metadata

METHOD, HOST, STATUS, HEADER = "HttpMethod", "HttpHost", "HttpStatus", "HttpHeader:"
RATE_LIMITED = "FlowConnectRateLimited"
UNREACHABLE = "Unable to reach the origin service. The service may be down or it may not be responding to traffic"

_TYPES = {
    StreamKind.HTTP: ConnectType.HTTP,
    StreamKind.WEBSOCKET: ConnectType.WEBSOCKET,
    StreamKind.TCP: ConnectType.TCP,
}
_KINDS = {wire: kind for kind, wire in _TYPES.items()}


def to_request(head: RequestHead) -> ConnectRequest:
    """The message that opens a stream. Raises `ProtocolError` for a header name that the wire cannot carry."""
    if head.kind is StreamKind.TCP:
        return ConnectRequest(head.authority, ConnectType.TCP)
    metadata: list[tuple[str, str]] = [(METHOD, head.method), (HOST, head.authority)]
    for name, value in head.headers:
        if ":" in name:
            raise ProtocolError("a header name with a colon")
        metadata.append((HEADER + name, value))
    if head.has_body and not any(name.lower() == "content-length" for name, _ in head.headers):
        metadata.append((HEADER + "Transfer-Encoding", "chunked"))  # else cloudflared drops the body in silence
    return ConnectRequest(f"https://{head.authority}{head.path}", _TYPES[head.kind], tuple(metadata))


def from_request(message: ConnectRequest) -> RequestHead:
    """The head a stream was opened with. Raises `ProtocolError`."""
    kind = _KINDS[message.type]
    if kind is StreamKind.TCP:
        return RequestHead(kind, "", message.dest, "")
    headers = _headers(message.metadata)
    fields = dict(message.metadata)
    path = _path(message.dest)
    authority = fields.get(HOST) or urlsplit(message.dest).netloc
    has_body = kind is StreamKind.HTTP and _announces_body(headers)
    return RequestHead(kind, fields.get(METHOD) or "GET", authority, path, headers, has_body)


def to_response(head: ResponseHead, kind: StreamKind) -> ConnectResponse:
    """The message that answers."""
    if not head.from_upstream:
        metadata: Metadata = ((RATE_LIMITED, "true"),) if head.rate_limited else ()
        return ConnectResponse(UNREACHABLE, metadata)
    if kind is StreamKind.TCP:
        return ConnectResponse()
    headers = tuple((HEADER + name, value) for name, value in head.headers)
    return ConnectResponse("", ((STATUS, str(head.status)), *headers))


def from_response(message: ConnectResponse, kind: StreamKind) -> ResponseHead:
    """The head of an answer. Raises `ProtocolError` when it holds no status."""
    fields = dict(message.metadata)
    if message.error:
        return ResponseHead(502, from_upstream=False, rate_limited=fields.get(RATE_LIMITED) == "true")
    if kind is StreamKind.TCP:
        return ResponseHead(200)
    status = fields.get(STATUS, "")
    if not (status.isascii() and status.isdigit() and len(status) == 3):
        raise ProtocolError("a connect response without a status")
    return ResponseHead(int(status), _headers(message.metadata))


def _headers(metadata: Metadata) -> Headers:
    return tuple((key.removeprefix(HEADER), value) for key, value in metadata if key.startswith(HEADER))


def _announces_body(headers: Headers) -> bool:
    for name, value in headers:
        if name.lower() == "transfer-encoding" and value.lower() == "chunked":
            return True
        if name.lower() == "content-length" and value.isascii() and value.isdigit() and value.strip("0"):
            return True
    return False


def _path(dest: str) -> str:
    """Path and query of a URL, byte for byte."""
    scheme, found, rest = dest.partition("://")
    if not found or "/" in scheme:
        return dest if dest.startswith("/") else f"/{dest}"
    start = next((index for index, char in enumerate(rest) if char in "/?"), len(rest))
    path = rest[start:]
    return path if path.startswith("/") else f"/{path}"
