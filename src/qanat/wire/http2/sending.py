"""The sending half of an HTTP/2 connection: windows, queues, and turns.

Besides the peer's windows there is a cap of our own on each stream's unacknowledged bytes. A peer that gives credit
back only for what its local side has taken lets one stalled stream hold a whole connection window, and with it every
other stream; the cap leaves such a stream a sixteenth of it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from qanat.wire.http2.events import Event, Headers, QueueDrained
from qanat.wire.http2.frames import DEFAULT_WINDOW, END_STREAM, FRAME_HEADER, MIN_FRAME_SIZE

Piece = bytes | bytearray | memoryview
Queue = deque[Piece]

MIN_CAP: Final = 64 * 1024
CAP_SHARE: Final = 16
TURN: Final = 64 * 1024
"""Bytes a stream may send before the next one's turn."""
SMALL: Final = 1024
"""Bytes below which queued writes are joined."""
_pack_header: Final = FRAME_HEADER.pack
FLUSH_SIZE: Final = 256 * 1024
"""Queued bytes turned into frames at once; the socket is asked in between whether it takes more."""


class Stream:
    """One stream: the peer's half, our half, and what waits to be sent."""

    __slots__ = (
        "allowance",
        "answered",
        "credit",
        "end_queued",
        "expected",
        "has_head",
        "id",
        "local_open",
        "low_water",
        "no_body",
        "queue",
        "queued",
        "receive_window",
        "remote_open",
        "send_window",
        "trailers",
    )

    def __init__(self, stream_id: int, send_window: int, allowance: int, receive_window: int) -> None:
        self.id = stream_id
        self.local_open = self.remote_open = True
        self.answered = False  # our head is out
        self.has_head = False  # the peer's final head has arrived
        self.no_body = False  # the answer to a HEAD request: its content-length promises nothing
        self.expected: int | None = None  # bytes its content-length still promises
        self.send_window = send_window
        self.allowance = allowance  # the cap, less what is unacknowledged
        self.receive_window = receive_window
        self.credit = 0  # acknowledged, not yet announced
        self.queue: Queue | None = None  # most streams never queue, and an empty deque weighs more than the rest
        self.queued = 0
        self.low_water = -1
        self.end_queued = False
        self.trailers: Headers = ()


class Sender:
    """Turns writes into DATA frames as far as the windows allow, and queues the rest, fairly."""

    def __init__(self, streams: dict[int, Stream], capped: bool) -> None:
        self._streams = streams
        self.outgoing: list[Piece] = []
        self.events: list[Event] = []
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame_size = MIN_FRAME_SIZE
        self.held = False
        self._capped = capped
        self._largest_window = DEFAULT_WINDOW
        self._cap = MIN_CAP if capped else 2**62
        self._ready: OrderedDict[int, Stream] = OrderedDict()
        self.ended: list[Stream] = []
        """Streams whose queue has run out and that have an end waiting: the connection sends it."""

    def new_stream(self, stream_id: int, receive_window: int) -> Stream:
        return Stream(stream_id, self.initial_window, self._cap, receive_window)

    @property
    def has_ready(self) -> bool:
        """Whether queued bytes could go out now."""
        return bool(self._ready) and not self.held and self.window > 0

    def send(self, stream_id: int, data: bytes) -> int:
        """Frame `data`, or queue it until the peer's windows take it; returns the bytes that wait on the stream.

        Ignored on a stream that is gone or that we have ended.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.end_queued or not stream.local_open:
            return 0
        size = len(data)
        if (
            size <= stream.send_window
            and size <= stream.allowance
            and size <= self.window
            and size <= self.max_frame_size
            and not (stream.queue or self.held or self._ready)
        ):
            stream.send_window -= size
            stream.allowance -= size
            self.window -= size
            self.outgoing.append(_pack_header(size << 8, 0, stream_id))
            self.outgoing.append(data)
        elif size:
            if stream.queue is None:
                stream.queue = deque()
            _append(stream.queue, data)
            stream.queued += size
            self.mark_ready(stream)
        return stream.queued

    def flush(self) -> None:
        """Frame up to `FLUSH_SIZE` of what is queued, each stream in its turn."""
        budget = FLUSH_SIZE
        while self._ready and budget > 0 and self.window > 0 and not self.held:
            _, stream = self._ready.popitem(last=False)
            budget -= self._send_turn(stream)
            self.mark_ready(stream)
            if stream.queued <= stream.low_water:
                stream.low_water = -1
                self.events.append(QueueDrained(stream.id))

    def credit(self, stream: Stream, increment: int) -> None:
        """The peer's WINDOW_UPDATE for a stream."""
        stream.send_window += increment
        stream.allowance = min(stream.allowance + increment, self._cap)
        self.mark_ready(stream)

    def credit_connection(self, increment: int) -> None:
        """The peer's WINDOW_UPDATE for the connection. A window larger than ever raises every stream's cap."""
        self.window += increment
        if not self._capped or self.window <= self._largest_window:
            return
        self._largest_window = self.window
        raised = max(MIN_CAP, self._largest_window // CAP_SHARE) - self._cap
        self._cap += raised
        for stream in self._streams.values() if raised else ():
            stream.allowance += raised
            self.mark_ready(stream)

    def change_initial_window(self, size: int) -> None:
        """The peer's SETTINGS change the window of every stream, those open included, perhaps below zero (RFC 9113
        6.9.2)."""
        difference, self.initial_window = size - self.initial_window, size
        for stream in self._streams.values():
            stream.send_window += difference
            if stream.send_window <= 0:
                self._ready.pop(stream.id, None)
            self.mark_ready(stream)

    def forget(self, stream: Stream) -> None:
        """Drop what is queued on a stream."""
        self._ready.pop(stream.id, None)
        stream.queue = None
        stream.queued = 0

    def mark_ready(self, stream: Stream) -> None:
        """Give the stream a turn, if it has something to send and may."""
        if stream.queue and stream.send_window > 0 and stream.allowance > 0:
            self._ready[stream.id] = stream

    def _send_turn(self, stream: Stream) -> int:
        size = min(stream.queued, stream.send_window, stream.allowance, self.window, self.max_frame_size, TURN)
        assert stream.queue is not None
        pieces = _take(stream.queue, size)
        stream.queued -= size
        stream.send_window -= size
        stream.allowance -= size
        self.window -= size
        last = stream.end_queued and not stream.queue
        plain_end = last and not stream.trailers
        self.outgoing.append(_pack_header(size << 8, END_STREAM if plain_end else 0, stream.id))
        self.outgoing.extend(pieces)
        if last:
            self.ended.append(stream)
        return size


def _append(queue: Queue, data: bytes) -> None:
    """Append `data`; small writes are joined, or a queue of single bytes would cost fifty times its size."""
    if len(data) >= SMALL:
        queue.append(data)
    elif queue and isinstance(last := queue[-1], bytearray) and len(last) < TURN:
        last += data
    else:
        queue.append(bytearray(data))


def _take(queue: Queue, size: int) -> list[Piece]:
    """Exactly `size` bytes from the front of `queue`, uncopied."""
    pieces: list[Piece] = []
    while size:
        piece = queue.popleft()
        if len(piece) > size:
            view = memoryview(piece)
            queue.appendleft(view[size:])
            piece = view[:size]
        pieces.append(piece)
        size -= len(piece)
    return pieces
