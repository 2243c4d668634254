"""WebSocket frames (RFC 6455 section 5) as a byte stream.

The tunnel puts a TLS stream into binary messages, so message and frame boundaries carry no meaning here: payload is
reported as it arrives, however it is framed. Extensions are never negotiated.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qanat.errors import ProtocolError
from qanat.wire.codec import Buffer, Codec

MAX_FRAME = 65536
"""Largest payload we put into one frame, in bytes."""
MAX_CONTROL = 125
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, INTERNAL_ERROR = 1000, 1001, 1002, 1003, 1011
ABNORMAL = 1006
"""Never on the wire: the connection ended without a Close frame (section 7.1.5)."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FIN, _MASKED = 0x80, 0x80


@dataclass(eq=False)
class WebSocketViolation(ProtocolError):
    """The peer broke the protocol; `close_code` is what to tell it."""

    code: ClassVar[str] = "websocket_protocol_error"
    close_code: int = PROTOCOL_ERROR


@dataclass(frozen=True, slots=True)
class PayloadReceived:
    """A piece of the peer's byte stream."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PingReceived:
    """The peer asks for a Pong with the same payload; the codec has queued it already."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer is alive."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer ends the stream. `code` 1005 stands for a Close frame without a code."""

    close_code: int
    reason: str


WebSocketEvent = PayloadReceived | PingReceived | PongReceived | CloseReceived


def accept_key(key: str) -> str:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def apply_mask(data: bytes, key: bytes) -> bytes:
    """XOR `data` with the 4-byte key repeated. Long integers make it one C loop."""
    size = len(data)
    pad = (key * ((size + 3) // 4))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


class WebSocketCodec(Codec[WebSocketEvent]):
    """One end of a WebSocket after its handshake.

    `next_mask` gives a fresh, unpredictable 4-byte key for each frame and makes this the client's end; without it this
    is the server's. Raises `WebSocketViolation` for anything the RFC forbids, and for text messages.
    """

    def __init__(self, next_mask: Callable[[], bytes] | None = None) -> None:
        super().__init__()
        self._next_mask = next_mask
        self._buffer = Buffer()
        self._opcode = 0
        self._remaining = -1
        self._mask = b""
        self._in_message = False
        self._final = False
        self._closed = False

    def send_payload(self, data: bytes | bytearray | memoryview) -> None:
        """Queue a piece of our byte stream, as binary messages of at most `MAX_FRAME` bytes."""
        if len(data) <= MAX_FRAME:
            self._queue(_BINARY, data)
            return
        view = memoryview(bytes(data))
        for start in range(0, len(view), MAX_FRAME):
            self._queue(_BINARY, view[start : start + MAX_FRAME])

    def send_ping(self, payload: bytes = b"") -> None:
        """Queue a Ping."""
        self._queue(_PING, payload)

    def send_close(self, close_code: int, reason: str = "") -> None:
        """Queue a Close; the reason is cut to what fits."""
        self._queue(_CLOSE, close_code.to_bytes(2, "big") + reason.encode("ascii", "replace")[: MAX_CONTROL - 2])

    def receive_data(self, data: bytes) -> None:
        if self._remaining < 0 and not self._buffer and self._take_lone_message(data):
            return
        self._buffer.feed(data)
        while not self._closed and self._step():
            pass

    def _take_lone_message(self, data: bytes) -> bool:
        """The usual case, which needs no buffer: `data` is one whole message of 126 to 65,535 bytes."""
        masked = self._next_mask is None
        start = 8 if masked else 4
        if len(data) <= start or data[0] != _FIN | _BINARY or data[1] != (_MASKED | 126 if masked else 126):
            return False
        if len(data) - start != data[2] << 8 | data[3] or self._in_message or self._closed:
            return False
        payload = bytes(data[start:])
        self._events.append(PayloadReceived(apply_mask(payload, data[4:8]) if masked else payload))
        return True

    def _step(self) -> bool:
        if self._remaining < 0 and not self._take_header():
            return False
        if self._opcode >= _CLOSE:
            return self._take_control()
        return self._take_payload()

    def _take_header(self) -> bool:
        start = self._buffer.peek(14)
        if len(start) < 2:
            return False
        masked, size = start[1] & _MASKED, start[1] & 0x7F
        header = 2 + (2 if size == 126 else 8 if size == 127 else 0)
        if len(start) < header + (4 if masked else 0):
            self._check_first_byte(start[0], size)
            return False
        self._check_first_byte(start[0], size)
        if bool(masked) == (self._next_mask is not None):
            raise WebSocketViolation("frame masked by a server" if masked else "frame not masked by its client")
        if size >= 126:
            size = int.from_bytes(start[2:header], "big")
        if size >> 63:
            raise WebSocketViolation("frame length has its top bit set")
        self._mask = start[header : header + 4] if masked else b""
        self._buffer.take(header + len(self._mask))
        self._opcode, self._final, self._remaining = start[0] & 0x0F, bool(start[0] & _FIN), size
        if self._opcode < _CLOSE:
            self._in_message = True
        return True

    def _check_first_byte(self, first: int, size: int) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise WebSocketViolation("reserved bit set without an extension")
        if opcode == _TEXT:
            raise WebSocketViolation("text message on a binary stream", UNSUPPORTED)
        if opcode not in (_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG):
            raise WebSocketViolation(f"unknown opcode {opcode}")
        if opcode >= _CLOSE and (size > MAX_CONTROL or not first & _FIN):
            raise WebSocketViolation("control frame too long or fragmented")
        if opcode == _CONTINUATION and not self._in_message:
            raise WebSocketViolation("continuation without a message")
        if opcode == _BINARY and self._in_message:
            raise WebSocketViolation("new message inside a fragmented one")

    def _take_payload(self) -> bool:
        available = min(len(self._buffer), self._remaining)
        if available:
            data = self._buffer.take(available) or b""
            if self._mask:
                data = apply_mask(data, self._mask)
                turn = available % 4
                self._mask = self._mask[turn:] + self._mask[:turn]
            self._remaining -= available
            self._events.append(PayloadReceived(data))
        if self._remaining:
            return False
        self._remaining = -1
        self._in_message = not self._final
        return True

    def _take_control(self) -> bool:
        payload = self._buffer.take(self._remaining)
        if payload is None:
            return False
        self._remaining = -1
        if self._mask:
            payload = apply_mask(payload, self._mask)
        if self._opcode == _PING:
            self._queue(_PONG, payload)
            self._events.append(PingReceived(payload))
        elif self._opcode == _PONG:
            self._events.append(PongReceived(payload))
        else:
            self._closed = True
            self._events.append(_parse_close(payload))
        return True

    def _queue(self, opcode: int, payload: bytes | bytearray | memoryview) -> None:
        size = len(payload)
        mask_bit = 0 if self._next_mask is None else _MASKED
        if size < 126:
            header = bytes((_FIN | opcode, mask_bit | size))
        elif size < 65536:
            header = bytes((_FIN | opcode, mask_bit | 126)) + size.to_bytes(2, "big")
        else:
            header = bytes((_FIN | opcode, mask_bit | 127)) + size.to_bytes(8, "big")
        self._outgoing.append(header)
        if self._next_mask is not None:
            key = self._next_mask()
            self._outgoing.append(key)
            payload = apply_mask(bytes(payload), key)
        if size:
            # A view is copied once, by `data_to_send`; what may change under us is copied now.
            self._outgoing.append(bytes(payload) if isinstance(payload, bytearray) else payload)


def _parse_close(payload: bytes) -> CloseReceived:
    if not payload:
        return CloseReceived(1005, "")
    if len(payload) == 1:
        raise WebSocketViolation("close frame with half a code")
    close_code = int.from_bytes(payload[:2], "big")
    if not (1000 <= close_code <= 1003 or 1007 <= close_code <= 1014 or 3000 <= close_code <= 4999):
        raise WebSocketViolation(f"close code {close_code} may not be sent")
    try:
        return CloseReceived(close_code, payload[2:].decode())
    except UnicodeDecodeError:
        raise WebSocketViolation("close reason is not UTF-8", 1007) from None
