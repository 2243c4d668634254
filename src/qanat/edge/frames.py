"""Where WebSocket frames begin and end, from their lengths alone.

The edge relays frames without looking inside. It follows their lengths towards the client for one reason: to know
when a frame of its own fits in between, so that a client learns why its stream ends, or that it soon will.
"""

from __future__ import annotations

from typing import Final

from qanat.net.websocket import GOING_AWAY_NOTICE

POLICY: Final = 1008
TRY_AGAIN: Final = 1013
BAD_GATEWAY: Final = 1014
"""Close codes (IANA registry): the tunnel was archived; the node is leaving; the tunnel's connection broke."""

_CLOSE_OPCODE: Final = 8


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
            start = position
            if self._header:
                data, start, size = self._header + data[position:], 0, size - position + len(self._header)
                self._header = b""
            position = _frame_end(data, start, size)
            if not position:
                self._header = data[start:]
                position = size
            elif data[start] & 0x0F == _CLOSE_OPCODE:
                self.closed = True
        self._remaining = position - size


def _frame_end(data: bytes, start: int, size: int) -> int:
    """Where the frame ends whose header begins at `start`, perhaps beyond `size`; 0 while its header is cut."""
    if size - start < 2:
        return 0
    length = data[start + 1] & 0x7F
    payload = start + (6 if data[start + 1] & 0x80 else 2)
    if length > 125:
        payload += 2 if length == 126 else 8
        if payload > size:
            return 0
        if length == 126:
            length = data[start + 2] << 8 | data[start + 3]
        else:
            length = int.from_bytes(data[start + 2 : start + 10], "big")
    return payload + length if payload <= size else 0


def going_away_frame() -> bytes:
    """The notice as an unmasked Ping."""
    return bytes((0x89, len(GOING_AWAY_NOTICE))) + GOING_AWAY_NOTICE


def close_frame(close_code: int, reason: str) -> bytes:
    """An unmasked Close; `reason` is short ASCII."""
    payload = close_code.to_bytes(2, "big") + reason.encode("ascii")[:123]
    return bytes((0x88, len(payload))) + payload
