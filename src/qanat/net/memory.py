"""A connected pair of transports in memory, with a socket's manners.

Delivery is by the event loop, never inside `write`; a paused reader fills its peer's buffer up to a high-water mark
and then pauses the writer. Tests run every layer over it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from qanat.net.layer import HIGH_WATER, LOW_WATER
from qanat.net.transport import Receiver


class MemoryTransport(asyncio.Transport):
    """One end of the pair."""

    peer: MemoryTransport

    def __init__(self, protocol: Receiver, extra: dict[str, Any] | None = None) -> None:
        super().__init__(extra)
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._outgoing = bytearray()
        self._eof_queued = self._closing = self._aborted = self._lost = False
        self._reading = True
        self._writer_paused = False
        self._scheduled = False
        self._high, self._low = HIGH_WATER, LOW_WATER

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._eof_queued:
            return
        self._outgoing += data
        if len(self._outgoing) > self._high and not self._writer_paused:
            self._writer_paused = True
            self._protocol.pause_writing()
        self._schedule()

    def write_eof(self) -> None:
        self._eof_queued = True
        self._schedule()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._schedule()

    def abort(self) -> None:
        self._outgoing.clear()
        self._closing = self._aborted = True  # a delivery that is due already must not make a clean end of it
        self._loop.call_soon(self._lose, None)
        self._loop.call_soon(self.peer._lose, ConnectionResetError("connection reset by peer"))

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self.peer._schedule()

    def is_reading(self) -> bool:
        return self._reading

    def get_write_buffer_size(self) -> int:
        return len(self._outgoing)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 2 if low is None else low

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        peer = self.peer
        if self._lost or self._aborted or not peer._reading:
            return
        if self._outgoing and not peer._lost:
            data = bytes(self._outgoing)
            self._outgoing.clear()
            if self._writer_paused:
                self._writer_paused = False
                self._protocol.resume_writing()
            peer._protocol.data_received(data)
            if self._outgoing or not peer._reading:
                self._schedule()
                return
        half_closed = self._eof_queued and not self._closing and not peer._lost
        if half_closed and not peer._protocol.eof_received():
            peer.close()
        if self._closing:
            self._lose(None)
            peer._receive_close()

    def _receive_close(self) -> None:
        if not self._lost:
            if not self._closing:
                self._protocol.eof_received()
            self._closing = True
            self._lose(None)

    def _lose(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(exc)


def memory_pair(
    a: Receiver, b: Receiver, extra: dict[str, Any] | None = None
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols to each other. Both have had `connection_made` when this returns."""
    end_a, end_b = MemoryTransport(a, extra), MemoryTransport(b, extra)
    end_a.peer, end_b.peer = end_b, end_a
    a.connection_made(end_a)
    b.connection_made(end_b)
    return end_a, end_b
