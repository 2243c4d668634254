"""What both ends of an HTTP/2 tunnel connection share: the codec on its transport, its streams, and its pulse.

Output is gathered and written once per turn of the event loop. While the socket takes no more, payload stays queued
by stream. A peer that says nothing for a few seconds is asked, and dropped when it stays silent.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from qanat.errors import ProtocolError
from qanat.logger import get_logger
from qanat.net.layer import HIGH_WATER, LOW_WATER, Layer
from qanat.net.transport import Receiver, Transport
from qanat.tunnel.connection import ConnectionLost, StreamReset
from qanat.wire.http2 import ErrorCode, HTTP2Connection, Settings
from qanat.wire.http2 import events as h2

OUR_SETTINGS: Final = Settings(
    initial_window=1024 * 1024,
    connection_window=16 * 1024 * 1024,
    max_concurrent_streams=1_000,
    max_frame_size=256 * 1024,
    max_header_list_size=256 * 1024,
)
LINGER = 30.0
"""Seconds a stream that we ended may take to send the rest and to be ended by the peer."""
READ_SIZE: Final = 64 * 1024
"""Bytes handed at once to a reader that goes on after a pause."""
GATHER: Final = 64 * 1024
"""Bytes of payload that are written at once; fewer wait for the end of the loop's turn."""
FORGIVE_AFTER: Final = 10.0
HELD_TOO_LONG = 30.0
"""Seconds without any room in the socket after which the peer counts as lost, whatever it says."""
CROWDED: Final = 0.75
"""Share of the connection's window held by paused readers at which the worst of them is given up."""
CLOSE_TIMEOUT = 5.0
"""Seconds the socket may take to send what was written before a close."""

_log: Final = get_logger("qanat.tunnel")


@dataclass(frozen=True)
class KeepAlive:
    """Seconds: of quiet before a PING, and of silence before the connection counts as lost."""

    interval: float = 2.0
    timeout: float = 4.5


class Stream:
    """One stream as a transport. A paused reader fills the stream's window, never more."""

    __slots__ = (
        "_closing",
        "_ended",
        "_finished",
        "_linger",
        "_lost",
        "_protocol",
        "_reading",
        "_unread",
        "_writer_paused",
        "link",
        "stream_id",
    )
    abort_code: ClassVar[ErrorCode] = ErrorCode.CANCEL

    def __init__(self, link: Link, stream_id: int) -> None:
        self.link = link
        self.stream_id = stream_id
        self._protocol: Receiver
        self._unread = bytearray()  # joined: a peer's frames may be a byte each
        self._reading = True
        self._writer_paused = self._closing = self._ended = self._finished = self._lost = False
        self._linger: asyncio.TimerHandle | None = None

    # Called by the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        link = self.link
        queued = link.codec.send_data(self.stream_id, data if type(data) is bytes else bytes(data))
        if queued > HIGH_WATER and not self._writer_paused:
            self._writer_paused = True
            link.codec.notify_below(self.stream_id, LOW_WATER)
            self._protocol.pause_writing()
        link.sent(len(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._closing:
            self.link.codec.end_stream(self.stream_id)
            self.link.flush_soon()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.drop_unread()
        self.end_cleanly()
        self.link.flush_soon()
        if self.link.knows(self):
            self._linger = self.link.loop.call_later(LINGER, self._reset, ErrorCode.CANCEL)
        self.link.loop.call_soon(self.lose, None)

    def abort(self) -> None:
        self._closing = True
        self._reset(self.abort_code)
        self.link.loop.call_soon(self.lose, None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self._unread or self._ended:
                self.link.loop.call_soon(self._read_on)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def get_write_buffer_size(self) -> int:
        return self.link.codec.queued(self.stream_id)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are the connection's; they hold for all its streams."""

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.link.transport.get_extra_info(name, default)

    # What the two ends do differently.

    def end_cleanly(self) -> None:
        """Close was called: end our side after what is queued, or reset if that would be a lie."""
        self.link.codec.end_stream(self.stream_id)

    def ended_by_peer(self) -> None:
        """The peer sends no more, and all it sent has been read."""
        self.close()

    # Called by the link.

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self.link.codec.acknowledge(self.stream_id, len(data))
        elif self._reading and not self._unread:
            self._pass_on(data)
        else:
            self._unread += data  # also when reading has just been resumed: what waits goes first

    def eof_received(self) -> None:
        self._ended = True
        if not self._unread and not self._closing:
            self.ended_by_peer()

    def queue_drained(self) -> None:
        if self._writer_paused and not self._lost:
            self._writer_paused = False
            self._protocol.resume_writing()

    def finished(self) -> None:
        """Both sides have ended on the wire; what is still unread is read first."""
        self._finished = True
        if self._linger is not None:
            self._linger.cancel()
        if not self._unread:
            self._closing = True
            self.lose(None)

    def gone(self, exc: Exception | None) -> None:
        """The stream was reset, or its connection is lost."""
        self._closing = True
        if self._linger is not None:
            self._linger.cancel()
        self.drop_unread()
        self.lose(exc)

    def fail(self, exc: Exception, error_code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        """Reset the stream for a reason of ours."""
        self._closing = True
        self._reset(error_code)
        self.lose(exc)

    @property
    def unread(self) -> int:
        """Bytes that wait for a paused reader."""
        return len(self._unread)

    def lose(self, exc: Exception | None) -> None:
        """Tell the protocol above, once."""
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(exc)

    def drop_unread(self) -> None:
        """Give back the credit of what nobody will read."""
        unread, self._unread = len(self._unread), bytearray()
        self.link.codec.acknowledge(self.stream_id, unread)

    def _pass_on(self, data: bytes) -> None:
        self._protocol.data_received(data)
        self.link.codec.acknowledge(self.stream_id, len(data))

    def _read_on(self) -> None:
        while self._unread and self._reading and not self._closing:
            piece = bytes(self._unread[:READ_SIZE])
            del self._unread[:READ_SIZE]
            self._pass_on(piece)
        if self._ended and not self._unread and not self._closing:
            self.ended_by_peer()
            if self._finished:
                self.finished()
        self.link.flush_soon()

    def _reset(self, error_code: int) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self.drop_unread()
        self.link.codec.reset_stream(self.stream_id, error_code)
        self.link.forget(self)
        self.link.flush_soon()


class Link(ABC):
    """One end of the connection."""

    transport: Transport

    def __init__(self, codec: HTTP2Connection, keep_alive: KeepAlive | None = None) -> None:
        self.codec = codec
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        self._keep_alive = keep_alive or KeepAlive()
        self._flushing = self._closing = self._crowded = False
        self._gathered = 0
        self._heard = self._forgiven = self.loop.time()
        self._pulse: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._pulse_due = self._held_since = 0.0
        self._lost: asyncio.Future[Exception | None] = self.loop.create_future()
        self._reason: Exception | None = None

    # Called by the transport below.

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        if isinstance(transport, Layer):
            transport.write_through()
        self._heard = self.loop.time()
        self._schedule_pulse()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        self._flushing = True  # what is written meanwhile goes out below, all at once
        try:
            self.codec.receive_data(data)
        except ProtocolError as error:
            self._dispatch()  # what came before the breach counts
            self.fail(error)
        finally:
            self.flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.codec.held = True
        self._held_since = self.loop.time()

    def resume_writing(self) -> None:
        self.codec.held = False
        self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._reason = self._reason or exc
        for timer in (self._pulse, self._deadline):
            if timer is not None:
                timer.cancel()
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            self._guarded(stream, stream.gone, ConnectionLost("tunnel connection lost"))
        self.link_lost(self._reason)
        if not self._lost.done():
            self._lost.set_result(self._reason)

    # For the two ends.

    @abstractmethod
    def event_received(self, event: h2.Event) -> None:
        """An event that is not about an open request stream."""

    @abstractmethod
    def link_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and all its streams have been told."""

    def stream_forgotten(self) -> None:
        """A request stream is closed for good."""
        return

    def knows(self, stream: Stream) -> bool:
        """Whether the stream is still open on the wire."""
        return self.streams.get(stream.stream_id) is stream

    def forget(self, stream: Stream) -> None:
        """The stream is closed on the wire."""
        if self.streams.pop(stream.stream_id, None) is not None:
            self.stream_forgotten()

    def flush_soon(self) -> None:
        """Write what the codec has, once this turn of the loop is over."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def sent(self, size: int) -> None:
        """A stream has given the codec so many bytes: write them once the turn is over, or now if they are many."""
        self._gathered += size
        if self._gathered >= GATHER:
            self._write_out()
        self.flush_soon()

    def flush(self) -> None:
        """Write what the codec has."""
        self._dispatch()
        self._flushing = False
        self._write_out()
        self._dispatch()

    def _write_out(self) -> None:
        self._gathered = 0
        if self._lost.done():
            return
        while data := self.codec.data_to_send():
            self.transport.write(data)

    def fail(self, error: Exception) -> None:
        """Close because of what the peer did; the codec's last words still go out."""
        self._reason = self._reason or error
        _log.info("tunnel connection failed", reason=str(error))
        self.close()

    def close(self) -> None:
        """Close now, after what has been written; streams are told that the connection is lost."""
        if self._closing:
            return
        self._closing = True
        self.flush()
        self.transport.close()
        if not self._lost.done():
            self._deadline = self.loop.call_later(CLOSE_TIMEOUT, self.transport.abort)

    async def wait_lost(self) -> Exception | None:
        """Return once the connection is gone, with the reason if it did not end cleanly."""
        return await asyncio.shield(self._lost)

    # Inside.

    def _dispatch(self) -> None:
        streams = self.streams
        for event in self.codec.events_received():
            if isinstance(event, h2.DataReceived) and (stream := streams.get(event.stream_id)) is not None:
                try:
                    stream.data_received(event.data)
                except Exception:
                    self._broken(stream)
            else:
                self._dispatch_rare(event)

    def _dispatch_rare(self, event: h2.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if stream is None:
            try:
                self.event_received(event)
            except ProtocolError as error:
                self.fail(error)
            return
        match event:
            case h2.StreamEnded():
                self._guarded(stream, stream.eof_received)
            case h2.QueueDrained():
                self._guarded(stream, stream.queue_drained)
            case h2.StreamClosed():
                self.forget(stream)
                self._guarded(stream, stream.finished)
            case h2.StreamReset(_, error_code):
                self.forget(stream)
                self._guarded(stream, stream.gone, StreamReset(error_code))
            case _:
                self._guarded(stream, self.stream_event_received, stream, event)

    def stream_event_received(self, stream: Stream, event: h2.Event) -> None:
        """A head or trailers on a request stream."""
        return

    def _guarded(self, stream: Stream, call: Any, *args: Any) -> None:
        """A bug in one stream's protocol ends that stream only."""
        try:
            call(*args)
        except Exception:
            self._broken(stream)

    def _broken(self, stream: Stream) -> None:
        _log.exception("stream failed", stream_id=stream.stream_id)
        stream.abort()

    def _schedule_pulse(self) -> None:
        now, deadline = self.loop.time(), self._heard + self._keep_alive.timeout + 0.01
        self._pulse_due = now + self._keep_alive.interval / 2
        if now < deadline < self._pulse_due:
            self._pulse_due = deadline  # silence is noticed when it is long enough, not at the beat after
        self._pulse = self.loop.call_at(self._pulse_due, self._beat)

    def _beat(self) -> None:
        now = self.loop.time()
        if now - self._forgiven > FORGIVE_AFTER:
            self._forgiven = now
            self.codec.forgive()
        late = now - self._pulse_due > 1.0  # this loop was stuck: the peer may have spoken, unheard
        if late:
            self._heard = max(self._heard, now - self._keep_alive.interval)
        if now - self._heard > self._keep_alive.timeout:
            self._drop("the peer went silent")
            return
        if self.codec.held and now - self._held_since > HELD_TOO_LONG:
            self._drop("the peer stopped reading")
            return
        if now - self._heard >= self._keep_alive.interval:
            self.codec.ping(b"qanat-ka")
            self.flush()
        self._relieve()
        self.pulse(now)
        self._schedule_pulse()

    def _relieve(self) -> None:
        """Readers that stay paused must not use up the window that all streams share: reset the worst of them."""
        unread = sum(stream.unread for stream in self.streams.values())
        crowded = unread > CROWDED * self.codec.settings.connection_window
        if crowded and self._crowded:  # for two beats: this is no burst
            worst = max(self.streams.values(), key=lambda stream: stream.unread)
            _log.warn("stream reset: its reader has stopped and others need the room", unread=worst.unread)
            self._guarded(worst, worst.fail, StreamReset(ErrorCode.ENHANCE_YOUR_CALM), ErrorCode.ENHANCE_YOUR_CALM)
        self._crowded = crowded

    def pulse(self, now: float) -> None:
        """About once a second."""
        return

    def _drop(self, reason: str) -> None:
        self._reason = ConnectionLost(reason)
        self.transport.abort()
