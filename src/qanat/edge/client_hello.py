"""The server name in a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3), read before the handshake begins.

One port serves clients with certificates and connectors without: which of the two must be known before OpenSSL is
told whether to ask for a certificate.
"""

from __future__ import annotations

from qanat.errors import ProtocolError

MAX_SIZE = 16 * 1024
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0


def read_server_name(data: bytes) -> str | None:
    """The name asked for (lowercase, empty when none), None while the ClientHello is incomplete.

    Raises `ProtocolError` for anything that is no ClientHello.
    """
    hello = _join_records(data)
    if hello is None:
        return None
    reader = _Reader(hello)
    reader.skip(2 + 32)
    reader.skip(reader.number(1))
    reader.skip(reader.number(2))
    reader.skip(reader.number(1))
    if reader.is_empty:
        return ""
    extensions = _Reader(reader.take(reader.number(2)))
    while not extensions.is_empty:
        kind, body = extensions.number(2), extensions.take(extensions.number(2))
        if kind == _SERVER_NAME:
            names = _Reader(body)
            names.skip(3)
            return names.take(names.number(2)).decode("ascii", "replace").lower()
    return ""


def _join_records(data: bytes) -> bytes | None:
    """The body of the ClientHello, which may span records."""
    body, position = b"", 0
    while position < len(data):
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
