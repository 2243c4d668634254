"""Header blocks, written without a dynamic table (RFC 7541).

Fields of the static table are indexed, all others literal and unhuffmaned: some bytes more on the wire, and a
twentieth of the CPU of a compressing encoder, at both ends. Blocks depend on nothing sent before, so fields can be
cached. Received blocks are decoded by `hpack`, whatever the peer's encoder does.
"""

from __future__ import annotations

from functools import lru_cache

from hpack.table import HeaderTable

from qanat.wire.http2.events import Headers

_NEVER_INDEXED, _NOT_INDEXED = 0x10, 0
_UNCACHED = {
    **dict.fromkeys(("authorization", "proxy-authorization", "cookie", "set-cookie"), _NEVER_INDEXED),
    **dict.fromkeys(("sec-websocket-key", "cf-cloudflared-response-headers"), _NOT_INDEXED),
}
"""Secrets, which no hop may put into a table either (RFC 7541 7.1), and what is hardly ever the same twice."""
_NO_TABLE = b"\x20"
"""Dynamic table size update to 0: whatever size the peer allows, now or later, this is within it."""

_FULL: dict[tuple[str, str], int] = {}
_NAMES: dict[str, int] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, start=1):
    _FULL.setdefault((_name.decode(), _value.decode()), _index)
    _NAMES.setdefault(_name.decode(), _index)

KNOWN_NAMES: dict[bytes, str] = {name.encode(): name for name in _NAMES}
"""One string for each common name, however many streams keep their headers."""


class HeaderEncoder:
    """Encodes the header blocks of one connection."""

    def __init__(self) -> None:
        self._prefix = _NO_TABLE

    def encode(self, headers: Headers) -> bytes:
        """One block. Names are lower case, values latin-1 text."""
        block = self._prefix + b"".join(
            [
                _literal(name, value, _UNCACHED[name]) if name in _UNCACHED else _field(name, value)
                for name, value in headers
            ]
        )
        self._prefix = b""
        return block


@lru_cache(maxsize=2048)
def _field(name: str, value: str) -> bytes:
    index = _FULL.get((name, value))
    if index is not None:
        return _integer(index, 7, 0x80)
    return _literal(name, value, _NOT_INDEXED)


def _literal(name: str, value: str, kind: int) -> bytes:
    index = _NAMES.get(name)
    raw = value.encode("latin-1")
    if index is not None:
        return _integer(index, 4, kind) + _integer(len(raw), 7, 0) + raw
    raw_name = name.encode("latin-1")
    return bytes([kind]) + _integer(len(raw_name), 7, 0) + raw_name + _integer(len(raw), 7, 0) + raw


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    """RFC 7541 5.1."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    encoded, value = bytearray([first | limit]), value - limit
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
