"""Which application protocols a TLS client offers (RFC 8446 4.1.2, RFC 7301), read before TLS begins.

Python's `ssl` goes on without ALPN when nothing fits; the RFC wants the alert `no_application_protocol`, so that a
client that speaks something else hears it at once instead of getting HTTP/1.1. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_SIZE = 64 * 1024
"""No real ClientHello comes near it."""
NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""The fatal alert as a record."""
_HANDSHAKE, _CLIENT_HELLO, _ALPN = 22, 1, 16


class NotClientHello(ValueError):
    """Something else: left to TLS, which has an alert for it."""


def offered_protocols(data: bytes) -> list[bytes] | None:
    """The protocols offered by the ClientHello at the start of `data`; None while it is not complete.

    Empty when the client has no opinion. Raises `NotClientHello`.
    """
    message = _handshake_bytes(data)
    if message and message[0] != _CLIENT_HELLO:
        raise NotClientHello
    if len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        if len(data) > MAX_SIZE:
            raise NotClientHello
        return None
    body = message[4 : 4 + int.from_bytes(message[1:4], "big")]
    for kind, content in _extensions(body):
        if kind == _ALPN:
            return list(_vectors(_take(content, 0, 2)[0]))
    return []


def _handshake_bytes(data: bytes) -> bytes:
    """The payload of the records so far, the last one possibly cut short."""
    payload, position = b"", 0
    while position < len(data):
        if data[position] != _HANDSHAKE:
            raise NotClientHello
        header = data[position : position + 5]
        if len(header) < 5:
            break
        size = int.from_bytes(header[3:5], "big")
        payload += data[position + 5 : position + 5 + size]
        position += 5 + size
    return payload


def _extensions(body: bytes) -> Iterator[tuple[int, bytes]]:
    position = 2 + 32  # version, random
    for size in (1, 2, 1):  # session id, cipher suites, compression
        _, position = _take(body, position, size)
    if position == len(body):
        return
    extensions, _ = _take(body, position, 2)
    position = 0
    while position < len(extensions):
        kind = int.from_bytes(extensions[position : position + 2], "big")
        content, position = _take(extensions, position + 2, 2)
        yield kind, content


def _vectors(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        vector, position = _take(data, position, 1)
        yield vector


def _take(data: bytes, position: int, size: int) -> tuple[bytes, int]:
    """A vector whose length takes `size` bytes, and where it ends."""
    start = position + size
    end = start + int.from_bytes(data[position:start], "big")
    if start > len(data) or end > len(data):
        raise NotClientHello
    return data[start:end], end
