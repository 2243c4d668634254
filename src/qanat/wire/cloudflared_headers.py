"""The headers by which cloudflared and its edge tell each other what a stream is (HTTP/2 only).

Requests travel as plain HTTP/2 headers plus a marker; of an answer only the status is plain, and the upstream's
headers are serialised into one: `b64(name):b64(value)` joined by `;`, base64 without padding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from enum import Enum

from qanat.errors import ProtocolError
from qanat.wire.http2.events import Headers

UPGRADE = "cf-cloudflared-proxy-connection-upgrade"
TCP_SOURCE = "cf-cloudflared-proxy-src"
RESPONSE_META = "cf-cloudflared-response-meta"
RESPONSE_HEADERS = "cf-cloudflared-response-headers"
ORIGIN_META = '{"src":"origin"}'
CONNECTOR_META = '{"src":"cloudflared"}'
RATE_LIMITED_META = '{"src":"cloudflared","flow_rate_limited":true}'

_INTERNAL = ("cf-cloudflared-", "cf-int-")
_INTERNAL_RESPONSE = (*_INTERNAL, "cf-proxy-", ":")
_HOP_BY_HOP = frozenset(
    {"connection", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_META = 1024


class MarkedKind(Enum):
    """What a stream is, by its headers."""

    CONFIGURATION = "configuration"
    WEBSOCKET = "websocket"
    TCP = "tcp"
    CONTROL = "control"
    HTTP = "http"


_UPGRADES = {
    "update-configuration": MarkedKind.CONFIGURATION,
    "websocket": MarkedKind.WEBSOCKET,
    "control-stream": MarkedKind.CONTROL,
}


def marked_kind(headers: Headers) -> MarkedKind:
    """What the edge opened this stream for. The marker for control comes last, after TCP, as in cloudflared."""
    upgrade = next((_UPGRADES.get(value) for name, value in headers if name == UPGRADE), None)
    if upgrade in (MarkedKind.CONFIGURATION, MarkedKind.WEBSOCKET):
        return upgrade
    if any(name == TCP_SOURCE and value for name, value in headers):
        return MarkedKind.TCP
    return upgrade or MarkedKind.HTTP


def marker(kind: MarkedKind) -> Headers:
    """The header that marks a stream of that kind."""
    if kind is MarkedKind.TCP:
        return ((TCP_SOURCE, "edge"),)
    return tuple((UPGRADE, value) for value, marked in _UPGRADES.items() if marked is kind)


def is_internal(name: str) -> bool:
    """Whether a client must not be able to send this header: it would speak to the connector."""
    return name.lower().startswith(_INTERNAL)


def request_fields(headers: Headers) -> Headers:
    """A client's header fields as the edge forwards them: lower case, without internal and hop-by-hop ones.

    `accept-encoding` is always there, else cloudflared asks for gzip of its own accord and unpacks the answer.
    """
    nominated = {
        token.strip().lower() for name, value in headers if name.lower() == "connection" for token in value.split(",")
    }
    fields = tuple(
        (name, value)
        for name, value in ((name.lower(), value) for name, value in headers)
        if name not in _HOP_BY_HOP and name not in nominated and not name.startswith(_INTERNAL)
    )
    if any(name == "accept-encoding" for name, _ in fields):
        return fields
    return (*fields, ("accept-encoding", "identity"))


def trailer_fields(trailers: Headers) -> Headers:
    """An upstream's trailers as HTTP/2 allows them: lower case, nothing hop-by-hop, nothing internal."""
    return tuple(
        (name, value)
        for name, value in ((name.lower(), value) for name, value in trailers)
        if name not in _HOP_BY_HOP and not name.startswith(_INTERNAL_RESPONSE)
    )


def without_markers(headers: Headers) -> Headers:
    """A request's fields as the upstream gets them: neither pseudo-headers nor anything internal."""
    return tuple(field for field in headers if not field[0].startswith(":") and not field[0].startswith(_INTERNAL))


def serialise_headers(headers: Headers) -> str:
    """Header lines in one value."""
    return ";".join(
        f"{_b64(name)}:{_b64(value)}" for name, value in headers if not name.lower().startswith(_INTERNAL_RESPONSE)
    )


def parse_serialised_headers(text: str) -> Headers:
    """The header lines in `text`. Raises `ProtocolError`."""
    if not text:
        return ()
    headers = []
    for line in text.split(";"):
        name, colon, value = line.partition(":")
        if not colon:
            raise ProtocolError("malformed serialised headers")
        headers.append((_unb64(name), _unb64(value)))
    return tuple(headers)


def parse_meta(text: str) -> tuple[bool, bool]:
    """Response meta: whether the answer is the upstream's, and whether the connector refused it for rate.

    Anything unreadable counts as an answer of the connector's own.
    """
    try:
        meta = json.loads(text) if len(text) <= _MAX_META else None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        return False, False
    return meta.get("src") == "origin", meta.get("flow_rate_limited") is True


def websocket_accept(key: str) -> str:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(key.encode("latin-1") + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def first_value(headers: Headers, name: str) -> str | None:
    """The first value of a header, whose name is given in lower case."""
    return next((value for key, value in headers if key.lower() == name), None)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode("latin-1")).decode().rstrip("=")


def _unb64(text: str) -> str:
    if "=" in text:
        raise ProtocolError("malformed serialised headers")
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ProtocolError("malformed serialised headers") from None
    if b"\r" in raw or b"\n" in raw or b"\0" in raw:
        raise ProtocolError("malformed serialised headers")
    return raw.decode("latin-1")
