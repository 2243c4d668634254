"""Where WebSocket frames begin and end, from their lengths alone.

The edge relays frames without looking inside. It follows their lengths towards the client for one reason: to know
when a frame of its own fits in between, so that a client learns why its stream ends, or that it soon will.
"""

from __future__ import annotations

from qanat.net.websocket import GOING_AWAY_NOTICE

POLICY, TRY_AGAIN, BAD_GATEWAY = 1008, 1013, 1014
"""Close codes (IANA registry): the tunnel was archived; the node is leaving; the tunnel's connection broke."""

_CLOSE_OPCODE = 8
_MAX_HEADER = 14


class FrameTracker:
    """Feed it everything that goes one way; `at_boundary` tells whether a frame may be put in now."""

    __slots__ = ("_header", "_remaining", "closed")

    def __init__(self) -> None:
        self._header = b""
        self._remaining = 0
        self.closed = False
        """A Close frame went by: nothing may follow."""

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return not self._remaining and not self._header

    def feed(self, data: bytes) -> None:
        """Take note of a piece, cut anywhere."""
        size, position = len(data), self._remaining
        while position < size:
            position = self._read_header(data, position, size)
        self._remaining = position - size

    def _read_header(self, data: bytes, position: int, size: int) -> int:
        """The position after the frame whose header begins (or goes on) here; `size` when the header is cut."""
        have = len(self._header)
        header = self._header + data[position : position + _MAX_HEADER - have]
        length = header_length(header)
        if length is None or len(header) < length:
            self._header = header
            return size
        self._header = b""
        if header[0] & 0x0F == _CLOSE_OPCODE:
            self.closed = True
        return position + length - have + _payload_length(header)


def header_length(start: bytes) -> int | None:
    """Length of the header that begins a frame; None while that cannot be told."""
    if len(start) < 2:
        return None
    size = start[1] & 0x7F
    return 2 + (2 if size == 126 else 8 if size == 127 else 0) + (4 if start[1] & 0x80 else 0)


def _payload_length(header: bytes) -> int:
    size = header[1] & 0x7F
    if size == 126:
        return int.from_bytes(header[2:4], "big")
    if size == 127:
        return int.from_bytes(header[2:10], "big")
    return size


def going_away_frame() -> bytes:
    """The notice as an unmasked Ping."""
    return bytes((0x89, len(GOING_AWAY_NOTICE))) + GOING_AWAY_NOTICE


def close_frame(close_code: int, reason: str) -> bytes:
    """An unmasked Close; `reason` is short ASCII."""
    payload = close_code.to_bytes(2, "big") + reason.encode("ascii")[:123]
    return bytes((0x88, len(payload))) + payload
