"""Which header lines pass, and which the proxy makes anew. Pure.

Lines keep their order and are never merged: an MCP server must see a repeated `Mcp-Method` to be able to refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from qanat.net.http1 import Header, tokens, values
from qanat.proxy.errors import BadRequest, LoopDetected
from qanat.proxy.routes import Authority

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authenticate",
        b"proxy-authorization",
    )
)
_MADE_ANEW = frozenset((b"forwarded", b"x-real-ip", b"cdn-loop", b"host", b"x-request-id"))
_REQUEST_DROPPED = _HOP_BY_HOP | _MADE_ANEW
_RESPONSE_DROPPED = _HOP_BY_HOP | {b"x-request-id"}
_REWRITTEN = frozenset((b"location", b"content-location", b"refresh", b"www-authenticate"))
_TRAILER_DROPPED = _REQUEST_DROPPED | {
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"content-range",
    b"authorization",
    b"trailer",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_VIA_MARK = re.compile(rb"(?:^|[\s,])mcp-proxy(?=[\s,]|$)")
_MAX_PASSES = 5
"""How often a request may have been here before it is taken for a loop."""


def request_id_of(headers: Iterable[Header], new_id: Callable[[], str]) -> str:
    """The caller's `X-Request-Id` if there is one of a harmless shape, else a new one."""
    given = values(headers, b"x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(text := given[0].decode("latin-1")):
        return text
    return new_id()


def upstream_headers(
    headers: tuple[Header, ...], *, host: bytes, authority: Authority, request_id: str, protocol: bytes
) -> list[Header]:
    """The header lines to send upstream, framing not among them. Raises `BadRequest` and `LoopDetected`."""
    listed = _connection_options(headers)
    kept: list[Header] = [(b"Host", host)]
    for header in headers:
        name = header[0].lower()
        if name in _REQUEST_DROPPED or name in listed or name.startswith((b"x-forwarded-", b"cf-")):
            if name == b"te" and b"trailers" in tokens([header], b"te"):
                kept.append((b"TE", b"trailers"))
            continue
        kept.append(header)
    _check_passes(headers)
    kept.append((b"X-Forwarded-Host", str(authority).encode("ascii")))
    kept.append((b"X-Forwarded-Proto", b"https"))
    kept.append((b"X-Request-Id", request_id.encode("ascii")))
    kept.append((b"Via", protocol + b" mcp-proxy"))
    return kept


def _connection_options(headers: tuple[Header, ...]) -> frozenset[bytes]:
    """What `Connection` lists. Naming a field that must arrive is an attack on the upstream: `BadRequest`."""
    options = frozenset(tokens(headers, b"connection"))
    for option in options:
        if option in (b"authorization", b"host") or option.startswith((b"content-", b"mcp-")):
            raise BadRequest("Connection lists a field that must not be removed")
    return options


def _check_passes(headers: tuple[Header, ...]) -> None:
    passes = sum(len(_VIA_MARK.findall(value)) for value in values(headers, b"via"))
    if passes >= _MAX_PASSES:
        raise LoopDetected


def caller_headers(
    headers: tuple[Header, ...], request_id: str, rewrite: Callable[[bytes, bytes], bytes] | None
) -> list[Header]:
    """The header lines to send to the caller. `rewrite(name, value)` is asked about lines that may name an origin."""
    listed = frozenset(tokens(headers, b"connection"))
    kept: list[Header] = []
    for header in headers:
        name = header[0].lower()
        if name in _RESPONSE_DROPPED or name in listed:
            continue
        if rewrite is not None and name in _REWRITTEN:
            header = (header[0], rewrite(name, header[1]))
        kept.append(header)
    kept.append((b"X-Request-Id", request_id.encode("ascii")))
    return kept


def passing_trailers(trailers: tuple[Header, ...]) -> tuple[Header, ...]:
    """Trailers without the fields that mean something else before the body than after it (RFC 9110 6.5.1)."""
    return trailers and tuple(header for header in trailers if header[0].lower() not in _TRAILER_DROPPED)
