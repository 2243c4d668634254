"""The load's side of a chain: TLS and WebSocket as a client speaks them, written to cost little.

Apart from the product's own layers on purpose: what the product saves must not make its load cheaper too. Pull-style:
bytes in, bytes out, no tasks.
"""

from __future__ import annotations

import os
import ssl
from base64 import b64encode

from websockets.speedups import apply_mask

from qanat.net.transport import Transport

CHUNK = 64 * 1024
_BINARY, _CONTROL = 0x82, 8
_MEDIUM = bytes((_BINARY, 126))


class Layer:
    """One layer, from the client's side."""

    def hello(self) -> bytes:
        """What to send first."""
        raise NotImplementedError

    def step(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Go on with the handshake: what to send, and, once it is done, what came behind it."""
        raise NotImplementedError

    def receive(self, data: bytes) -> bytes:
        """Take off this layer."""
        raise NotImplementedError

    def wrap(self, data: bytes) -> bytes:
        """Put on this layer."""
        raise NotImplementedError


class TLS(Layer):
    """A TLS session."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        bare = getattr(self._tls, "_sslobj", self._tls)  # what it wraps: a call less for each record
        self._read, self._write = bare.read, bare.write

    def hello(self) -> bytes:
        return self.step(b"")[0]

    def step(self, data: bytes) -> tuple[bytes, bytes | None]:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read(), None
        return self._outgoing.read(), self.receive(b"")

    def receive(self, data: bytes) -> bytes:
        self._incoming.write(data)
        try:
            piece: bytes = self._read(16384)
            if not self._incoming.pending:
                return piece  # the common case: one record
        except ssl.SSLWantReadError:
            return b""
        pieces = [piece]
        try:
            while self._incoming.pending:
                pieces.append(self._read(16384))
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)

    def wrap(self, data: bytes) -> bytes:
        self._write(data)
        return self._outgoing.read()


class WebSocket(Layer):
    """A WebSocket, from its upgrade on."""

    def __init__(self, host: str) -> None:
        self._host, self._rest = host, b""
        self._mask = os.urandom(4)
        """Always the same: no attacker is here to be kept from choosing what goes over the wire (RFC 6455 10.3)."""

    def hello(self) -> bytes:
        key = b64encode(os.urandom(16)).decode()
        return (
            f"GET / HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def step(self, data: bytes) -> tuple[bytes, bytes | None]:
        self._rest += data
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            return b"", None
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"no upgrade: {head[:200]!r}")
        self._rest = b""
        return b"", self.receive(rest)

    def receive(self, data: bytes) -> bytes:
        if len(data) > 4 and data[:2] == _MEDIUM and not self._rest and len(data) == 4 + (data[2] << 8 | data[3]):
            return data[4:]  # the common case: one frame, all of it
        data = self._rest + data
        pieces, position = [], 0
        while frame := _frame(data, position):
            start, end = frame
            if data[position] & 0x0F < _CONTROL:  # pings go unanswered: no connection lives until that is missed
                pieces.append(data[start:end])
            position = end
        self._rest = data[position:]
        return b"".join(pieces)

    def wrap(self, data: bytes) -> bytes:
        mask, size = self._mask, len(data)
        if size < 126:
            head = bytes((_BINARY, 0x80 | size))
        elif size < 65536:
            head = bytes((_BINARY, 0xFE, size >> 8, size & 0xFF))
        else:
            head = bytes((_BINARY, 0xFF)) + size.to_bytes(8, "big")
        return head + mask + apply_mask(data, mask)


def _frame(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `position` begins and ends; None while it is not whole."""
    if len(data) - position < 2:
        return None
    size = data[position + 1]
    start = position + (2 if size < 126 else 4 if size == 126 else 10)
    if size >= 126:
        size = int.from_bytes(data[position + 2 : start], "big")
    return (start, start + size) if start + size <= len(data) else None


class Stack:
    """A connection and its layers, outermost first. Whoever is on top overrides `opened`, `received` and `lost`.

    A `Receiver` by shape only, as the product's are: it is compiled.
    """

    transport: Transport

    def __init__(self, layers: list[Layer]) -> None:
        self._unopened = layers
        self._inward: list[Layer] = []
        self._outward: list[Layer] = []
        """The layers that are open, in the order in which each direction goes through them."""
        self._failure: Exception | None = None

    def opened(self) -> None:
        """Every layer stands."""

    def received(self, data: bytes) -> None:
        """What came through all of them."""

    def lost(self, error: Exception) -> None:
        """The connection is over."""

    def send(self, data: bytes) -> None:
        """Through all layers that are open."""
        if len(data) > CHUNK:
            for start in range(0, len(data), CHUNK):
                self.send(data[start : start + CHUNK])
            return
        for layer in self._outward:
            data = layer.wrap(data)
        self.transport.write(data)

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost(self._failure or exc or ConnectionResetError("closed"))

    def eof_received(self) -> None:
        return

    def pause_writing(self) -> None:
        return

    def resume_writing(self) -> None:
        return

    def data_received(self, data: bytes) -> None:
        try:
            for layer in self._inward:
                data = layer.receive(data)
            if self._unopened:
                self._step(data)
            elif data:
                self.received(data)
        except (ssl.SSLError, ConnectionError) as error:
            self._failure = error
            self.transport.abort()

    def _begin(self) -> None:
        if self._unopened:
            self.send(self._unopened[0].hello())
        else:
            self.opened()

    def _step(self, data: bytes) -> None:
        layer = self._unopened[0]
        outgoing, rest = layer.step(data)
        self.send(outgoing)
        if rest is None:
            return
        del self._unopened[0]
        self._inward.append(layer)
        self._outward.insert(0, layer)
        self._begin()
        if rest and self._unopened:
            self._step(rest)
        elif rest:
            self.received(rest)
