"""WebSocket frames (RFC 6455 section 5) as a byte stream.

The tunnel puts a TLS stream into binary messages, so message and frame boundaries carry no meaning here: payload is
reported as it arrives, however it is framed. Extensions are never negotiated.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qanat.wire.codec import Codec
from qanat.wire.errors import WebSocketViolation

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel for this platform: the same in Python
    from websockets.utils import apply_mask

MAX_FRAME: Final = 65536
"""Largest payload we put into one frame, in bytes."""
MAX_CONTROL: Final = 125
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
INTERNAL_ERROR: Final = 1011
ABNORMAL: Final = 1006
"""Never on the wire: the connection ended without a Close frame (section 7.1.5)."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION: Final = 0
_TEXT: Final = 1
_BINARY: Final = 2
_CLOSE: Final = 8
_PING: Final = 9
_PONG: Final = 10
_FIN: Final = 0x80
_MASKED: Final = 0x80
_pack_short: Final = struct.Struct("!BB").pack
_pack_medium: Final = struct.Struct("!BBH").pack
_pack_long: Final = struct.Struct("!BBQ").pack


@dataclass(init=False)  # not frozen: one is made for each frame, and a frozen one costs thrice
class PayloadReceived:
    """A piece of the peer's byte stream."""

    data: bytes

    def __init__(self, data: bytes) -> None:
        self.data = data


@dataclass(frozen=True)
class PingReceived:
    """The peer asks for a Pong with the same payload; the codec has queued it already."""

    payload: bytes


@dataclass(frozen=True)
class PongReceived:
    """The peer is alive."""

    payload: bytes


@dataclass(frozen=True)
class CloseReceived:
    """The peer ends the stream. `code` 1005 stands for a Close frame without a code."""

    close_code: int
    reason: str


WebSocketEvent = PayloadReceived | PingReceived | PongReceived | CloseReceived


def accept_key(key: str) -> str:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


class WebSocketCodec(Codec[WebSocketEvent]):
    """One end of a WebSocket after its handshake.

    `next_mask` gives a fresh, unpredictable 4-byte key for each frame and makes this the client's end; without it this
    is the server's. Raises `WebSocketViolation` for anything the RFC forbids, and for text messages.
    """

    def __init__(self, next_mask: Callable[[], bytes] | None = None) -> None:
        super().__init__()
        self._next_mask = next_mask
        self._rest = b""  # the beginning of a header or of a control frame
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
        if self._rest:
            data, self._rest = self._rest + data, b""
        position = 0
        while not self._closed:  # what follows a Close is nobody's
            if self._remaining < 0:
                start = self._take_header(data, position)
                if not start:
                    break
                position = start
            end = position + self._remaining
            if self._opcode < _CLOSE:
                self._take_payload(data if position == 0 and end >= len(data) else data[position:end])
            elif end <= len(data):
                self._take_control(data[position:end])
            else:
                break
            if end > len(data):
                return
            position = end
        if not self._closed:
            self._rest = data[position:]

    def _take_header(self, data: bytes, position: int) -> int:
        """Where the payload of the frame at `position` begins; 0 while the header is not whole."""
        available = len(data) - position
        if available < 2:
            return 0
        first, second = data[position], data[position + 1]
        size = second & 0x7F
        if first != _FIN | _BINARY or self._in_message:
            self._check_first_byte(first, size)
        start = position + (2 if size < 126 else 4 if size == 126 else 10)
        end = start + 4 if second & _MASKED else start
        if available < end - position:
            return 0
        if (end != start) == (self._next_mask is not None):
            raise WebSocketViolation("frame not masked by its client" if end == start else "frame masked by a server")
        if size == 126:
            size = data[position + 2] << 8 | data[position + 3]
        elif size == 127:
            size = int.from_bytes(data[position + 2 : start], "big")
            if size >> 63:
                raise WebSocketViolation("frame length has its top bit set")
        self._mask = data[start:end]
        self._opcode, self._final, self._remaining = first & 0x0F, first >= _FIN, size
        return end

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

    def _take_payload(self, data: bytes) -> None:
        """A piece of the running frame, or all of it."""
        size = len(data)
        self._remaining -= size
        if data:
            if self._mask:
                data = apply_mask(data, self._mask)
                if self._remaining and (turn := size % 4):
                    self._mask = self._mask[turn:] + self._mask[:turn]
            self._events.append(PayloadReceived(data))
        if not self._remaining:
            self._remaining = -1
            self._in_message = not self._final

    def _take_control(self, payload: bytes) -> None:
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

    def _queue(self, opcode: int, payload: bytes | bytearray | memoryview) -> None:
        size = len(payload)
        mask_bit = 0 if self._next_mask is None else _MASKED
        if size < 126:
            header = _pack_short(_FIN | opcode, mask_bit | size)
        elif size < 65536:
            header = _pack_medium(_FIN | opcode, mask_bit | 126, size)
        else:
            header = _pack_long(_FIN | opcode, mask_bit | 127, size)
        self._outgoing.append(header)
        if self._next_mask is not None:
            key = self._next_mask()
            self._outgoing.append(key)
            payload = apply_mask(payload, key)
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
