"""A request as both HTTP versions present it to the rest of the proxy. Pure."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from qanat.net.http1 import Framing, RequestReceived
from qanat.net.http1_fields import Fields, Header, values
from qanat.proxy.errors import BadRequest
from qanat.proxy.routes import Authority, BadHost, parse_authority

_ABSOLUTE: Final = re.compile(rb"(?:https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(init=False)
class IncomingRequest:
    """A request's head. `target` is path and query byte for byte, or `*`; header names as they were written."""

    method: bytes
    target: bytes
    authority: Authority
    headers: Fields
    framing: Framing
    length: int
    protocol: bytes
    """`1.1` or `2`."""
    described: tuple[str, str, str]
    """The route and upstream it was last logged with, and what was said: the next request may have the same head."""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        authority: Authority,
        headers: Fields,
        framing: Framing,
        length: int,
        protocol: bytes,
    ) -> None:
        self.method, self.target, self.authority, self.protocol = method, target, authority, protocol
        self.headers, self.framing, self.length = headers, framing, length
        self.described = "", "", ""

    @property
    def path(self) -> str:
        """The target without its query: what may be logged."""
        return self.target.partition(b"?")[0].decode("latin-1")


def from_http1(request: RequestReceived) -> IncomingRequest:
    """Check what an HTTP/1.1 request says of its host. Raises `BadRequest`."""
    if request.version != b"1.1":
        raise BadRequest("HTTP/1.0 inside the tunnel")
    hosts = request.headers.by_name.get(b"host", ())
    if len(hosts) != 1:
        raise BadRequest("no Host, or more than one")
    authority = to_authority(hosts[0])
    target = _origin_form(request, authority)
    return IncomingRequest(
        request.method, target, authority, request.headers, request.framing, request.length, request.version
    )


def _origin_form(request: RequestReceived, authority: Authority) -> bytes:
    target = request.target
    if request.method == b"CONNECT" or b"#" in target:
        raise BadRequest("request target not allowed")
    if target.startswith(b"/"):
        return target
    if target == b"*" and request.method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise BadRequest("request target not allowed")
    if to_authority(absolute[1]) != authority:
        raise BadRequest("Host and request target disagree")
    rest = absolute[2]
    return rest if rest.startswith(b"/") else b"/" + rest


@functools.lru_cache(maxsize=1024)
def to_authority(value: bytes) -> Authority:
    """A `Host` or `:authority` value. Raises `BadRequest`."""
    try:
        return parse_authority(value.decode("ascii"))
    except (BadHost, UnicodeDecodeError):
        raise BadRequest("malformed Host") from None


def from_http2(headers: tuple[tuple[str, str], ...], has_body: bool) -> IncomingRequest:
    """A request's header list, already checked against RFC 9113 8.2 and 8.3. Raises `BadRequest`."""
    pseudo = {name: value.encode("latin-1") for name, value in headers if name.startswith(":")}
    fields = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers if not name.startswith(":")]
    if pseudo[":method"] == b"CONNECT":
        raise BadRequest("CONNECT is not for proxies like this one")
    authority = to_authority(_http2_authority(pseudo.get(":authority"), values(fields, b"host")))
    if any(_CONTROL.search(value) for _, value in fields):
        raise BadRequest("control character in a header value")
    framing, length = _http2_framing(fields, has_body)
    target = pseudo[":path"]
    return IncomingRequest(pseudo[":method"], target, authority, Fields(_join_cookies(fields)), framing, length, b"2")


_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def _http2_authority(authority: bytes | None, hosts: list[bytes]) -> bytes:
    if len(hosts) > 1 or (hosts and authority is not None and hosts[0].lower() != authority.lower()):
        raise BadRequest("no Host, or more than one")
    if authority is None and not hosts:
        raise BadRequest("no Host, or more than one")
    return hosts[0] if authority is None else authority


def _http2_framing(fields: list[Header], has_body: bool) -> tuple[Framing, int]:
    lengths = values(fields, b"content-length")
    if len(lengths) > 1:
        raise BadRequest("repeated Content-Length")
    if lengths:
        return Framing.LENGTH, int(lengths[0])
    return (Framing.CHUNKED, 0) if has_body else (Framing.NONE, 0)


def _join_cookies(fields: list[Header]) -> tuple[Header, ...]:
    """HTTP/2 may cut `cookie` into pieces; HTTP/1.1 must get it whole (RFC 9113 8.2.3)."""
    cookies = values(fields, b"cookie")
    if len(cookies) < 2:
        return tuple(fields)
    others = [header for header in fields if header[0] != b"cookie"]
    return (*others, (b"cookie", b"; ".join(cookies)))
