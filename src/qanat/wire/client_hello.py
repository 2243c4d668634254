"""What a TLS client says before the handshake begins (RFC 8446 4.1.2): the name it asks for, and what it speaks.

The edge must know the name before OpenSSL is told whether to ask for a certificate; the proxy must know the protocols,
because Python's `ssl` goes on without ALPN when nothing fits, where RFC 7301 wants an alert.
"""

from __future__ import annotations

from dataclasses import dataclass

from qanat.errors import ProtocolError

MAX_SIZE = 16 * 1024
MAX_RECORDS = 8
"""Records that a ClientHello may span. Real ones take one or two; crumbs would make reading it again and again dear."""
NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""The fatal alert (RFC 7301 3.2) as a record."""
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _ALPN = 22, 1, 0, 16


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`server_name` is lower case, and empty when none was asked for; `protocols` are those offered by ALPN."""

    server_name: str = ""
    protocols: tuple[bytes, ...] = ()


def read_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello at the start of `data`, None while it is incomplete.

    Raises `ProtocolError` for anything that is no ClientHello.
    """
    hello = _join_records(data)
    if hello is None:
        return None
    reader = _Reader(hello)
    reader.skip(2 + 32)
    for width in (1, 2, 1):  # session id, cipher suites, compression
        reader.vector(width)
    extensions = _Reader(b"" if reader.is_empty else reader.vector(2))
    name, protocols = "", []
    while not extensions.is_empty:
        kind, body = extensions.number(2), _Reader(extensions.vector(2))
        if kind == _SERVER_NAME:
            body.skip(3)
            name = body.vector(2).decode("ascii", "replace").lower()
        elif kind == _ALPN:
            offers = _Reader(body.vector(2))
            while not offers.is_empty:
                protocols.append(offers.vector(1))
    return ClientHello(name, tuple(protocols))


def _join_records(data: bytes) -> bytes | None:
    """The body of the ClientHello, which may span records."""
    body, position, records = b"", 0, 0
    while position < len(data):
        records += 1
        if records > MAX_RECORDS:
            raise ProtocolError("ClientHello in too many records")
        if data[position] != _HANDSHAKE:
            raise ProtocolError("no TLS handshake")
        if position + 5 > len(data):
            return None
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        body += data[position + 5 : position + 5 + length]
        position += 5 + length
        if body and body[0] != _CLIENT_HELLO:
            raise ProtocolError("no ClientHello")
        if len(body) >= 4 and len(body) >= 4 + int.from_bytes(body[1:4], "big"):
            return body[4 : 4 + int.from_bytes(body[1:4], "big")]
    if len(data) > MAX_SIZE:
        raise ProtocolError("ClientHello too long")
    return None


class _Reader:
    """Takes numbers and pieces off the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    @property
    def is_empty(self) -> bool:
        return self._position >= len(self._data)

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise ProtocolError("ClientHello cut short")
        piece, self._position = self._data[self._position : end], end
        return piece

    def skip(self, size: int) -> None:
        self.take(size)

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """A piece whose length stands before it, in `width` bytes."""
        return self.take(self.number(width))
