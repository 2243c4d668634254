"""Which header lines pass, and which the proxy makes anew. Pure.

Lines keep their order and are never merged: an MCP server must see a repeated `Mcp-Method` to be able to refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from qanat.net.http1_fields import Block, Fields, Header, Headers, Outgoing, Remembering, tokens, values
from qanat.proxy.errors import BadRequest, LoopDetected
from qanat.proxy.routes import Authority

_HOP_BY_HOP: Final = frozenset(
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
_MADE_ANEW: Final = frozenset((b"forwarded", b"x-real-ip", b"cdn-loop", b"host", b"x-request-id"))
_REQUEST_DROPPED = _HOP_BY_HOP | _MADE_ANEW
_RESPONSE_DROPPED: Final = _HOP_BY_HOP | {b"x-request-id"}
_REWRITTEN: Final = frozenset((b"location", b"content-location", b"refresh", b"www-authenticate"))
_TRAILER_DROPPED: Final = _REQUEST_DROPPED | {
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"content-range",
    b"authorization",
    b"trailer",
}
_PASSES_TO_UPSTREAM: Final = Remembering(
    lambda name: name.lower() not in _REQUEST_DROPPED and not name.lower().startswith((b"x-forwarded-", b"cf-"))
)
_PASSES_TO_CALLER: Final = Remembering(lambda name: name.lower() not in _RESPONSE_DROPPED)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_VIA_MARK: Final = re.compile(rb"(?:^|[\s,])mcp-proxy(?=[\s,]|$)")
_MAX_PASSES: Final = 5
"""How often a request may have been here before it is taken for a loop."""


def given_request_id(headers: Fields) -> str:
    """The caller's `X-Request-Id` if there is one of a harmless shape."""
    given = headers.by_name.get(b"x-request-id")
    if given and len(given) == 1 and _REQUEST_ID.fullmatch(text := given[0].decode("latin-1")):
        return text
    return ""


def upstream_headers(
    headers: Fields, *, host: bytes, authority: Authority, request_id: str, protocol: bytes
) -> Outgoing:
    """The header lines to send upstream, framing not among them. Raises `BadRequest` and `LoopDetected`."""
    block = headers.passing
    if block is None or block.made_for != host:
        lines = [
            (b"Host", host),
            *_passing_to_upstream(headers),
            (b"X-Forwarded-Host", authority.encoded),
            (b"X-Forwarded-Proto", b"https"),
            (b"Via", protocol + b" mcp-proxy"),
        ]
        block = headers.passing = Block(lines, made_for=host)
    return Outgoing(block, [(b"X-Request-Id", request_id.encode("ascii"))])


def _passing_to_upstream(headers: Fields) -> list[Header]:
    kept = [header for header in headers.lines if _PASSES_TO_UPSTREAM[header[0]]]
    by_name = headers.by_name
    if b"connection" in by_name and (listed := _connection_options(headers)):
        kept = [header for header in kept if header[0].lower() not in listed]
    if b"te" in by_name and b"trailers" in tokens(headers, b"te"):
        kept.append((b"TE", b"trailers"))
    if b"via" in by_name:
        _check_passes(headers)
    return kept


def _connection_options(headers: Fields) -> frozenset[bytes]:
    """What `Connection` lists. Naming a field that must arrive is an attack on the upstream: `BadRequest`."""
    options = frozenset(tokens(headers, b"connection"))
    for option in options:
        if option in (b"authorization", b"host") or option.startswith((b"content-", b"mcp-")):
            raise BadRequest("Connection lists a field that must not be removed")
    return options


def _check_passes(headers: Fields) -> None:
    passes = sum(len(_VIA_MARK.findall(value)) for value in values(headers, b"via"))
    if passes >= _MAX_PASSES:
        raise LoopDetected


def expects_continue(headers: Iterable[Header]) -> bool:
    """Whether the caller waits for `100 Continue` before it sends its body."""
    return b"100-continue" in tokens(headers, b"expect")


def caller_headers(headers: Fields, request_id: str, rewrite: Callable[[bytes, bytes], bytes] | None) -> Outgoing:
    """The header lines to send to the caller. `rewrite(name, value)` is asked about lines that may name an origin."""
    block = headers.passing
    if block is None:
        block = headers.passing = Block(_passing_to_caller(headers))
    if rewrite is not None:
        lines = [
            (name, rewrite(lower, value)) if (lower := name.lower()) in _REWRITTEN else (name, value)
            for name, value in block.lines
        ]
        block = Block(lines)
    return Outgoing(block, [(b"X-Request-Id", request_id.encode("ascii"))])


def _passing_to_caller(headers: Fields) -> list[Header]:
    kept = [header for header in headers.lines if _PASSES_TO_CALLER[header[0]]]
    if b"connection" in headers.by_name and (listed := tokens(headers, b"connection")):
        kept = [header for header in kept if header[0].lower() not in listed]
    return kept


def may_name_an_origin(headers: Fields) -> bool:
    """Whether `caller_headers` has a use for `rewrite`."""
    by_name = headers.by_name
    return (
        b"location" in by_name
        or b"content-location" in by_name
        or b"refresh" in by_name
        or b"www-authenticate" in by_name
    )


def passing_trailers(trailers: Headers) -> Headers:
    """Trailers without the fields that mean something else before the body than after it (RFC 9110 6.5.1)."""
    return tuple(header for header in trailers if header[0].lower() not in _TRAILER_DROPPED)
