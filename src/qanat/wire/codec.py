"""The base of every codec: bytes in, events and bytes out.

A codec is a sans-I/O state machine. Whoever owns the socket calls `receive_data`, then empties `events_received` and
`data_to_send`. Untrusted bytes can raise only `ProtocolError`; after that the codec is of no further use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

E = TypeVar("E")


@mypyc_attr(allow_interpreted_subclasses=True)
class Codec(ABC, Generic[E]):
    """The two queues every codec has."""

    def __init__(self) -> None:
        self._events: list[E] = []
        self._outgoing: list[bytes | memoryview] = []

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer, cut anywhere. Raises `ProtocolError`."""

    def receive_eof(self) -> None:
        """The peer will send no more. Raises `UnexpectedEnd` if that leaves something unfinished."""
        return

    def events_received(self) -> list[E]:
        """What happened since the last call; empties the queue."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """What the peer must be sent; empties the queue."""
        if not self._outgoing:
            return b""
        outgoing, self._outgoing = self._outgoing, []
        return bytes(outgoing[0]) if len(outgoing) == 1 else b"".join(outgoing)


class Buffer:
    """Bytes waiting to become whole. Taking from the front is cheap: the space is reclaimed in large steps."""

    __slots__ = ("_data", "_start")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Append `data`."""
        self._data += data

    def peek(self, size: int) -> bytes:
        """The first `size` bytes, or fewer if there are fewer, without taking them."""
        return bytes(self._data[self._start : self._start + size])

    def take(self, size: int) -> bytes | None:
        """The first `size` bytes, or None while there are fewer."""
        if len(self) < size:
            return None
        taken = bytes(memoryview(self._data)[self._start : self._start + size])
        self._start += size
        if self._start > 65536 or self._start == len(self._data):
            del self._data[: self._start]
            self._start = 0
        return taken

    def take_all(self) -> bytes:
        """Everything, possibly nothing."""
        taken = bytes(memoryview(self._data)[self._start :])
        self._data.clear()
        self._start = 0
        return taken
