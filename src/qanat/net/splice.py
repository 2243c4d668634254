"""Two transports joined: what one receives the other sends, and a full one stops its feeder.

There is no half-close: the wire between edge and connector has none (the first end of stream ends both directions),
so the first side to end closes the other after what is queued has been sent.
"""

from __future__ import annotations

from collections.abc import Callable

from qanat.net.transport import Receiver, Transport


class Splice(Receiver):
    """One direction of a relay. Two of them, each other's `peer`, join two transports.

    `transport` is the one this end listens to. `on_lost` is called once when it is gone.
    """

    peer: Splice
    transport: Transport

    def __init__(self, on_lost: Callable[[Exception | None], None] | None = None) -> None:
        self._on_lost = on_lost
        self.bytes_received = 0

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        self.peer.transport.write(data)

    def pause_writing(self) -> None:
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.peer.transport.close()
        else:
            self.peer.transport.abort()
        if self._on_lost is not None:
            self._on_lost(exc)


def splice(a: Transport, b: Transport) -> tuple[Splice, Splice]:
    """Join two connected transports; returns the ends that now listen to `a` and to `b`."""
    end_a, end_b = Splice(), Splice()
    end_a.peer, end_b.peer = end_b, end_a
    end_a.transport, end_b.transport = a, b
    a.set_protocol(end_a)
    b.set_protocol(end_b)
    return end_a, end_b
