"""One QUIC connection at work: datagrams in and out, its timer, and its streams as asyncio transports.

Both ends share this. Whoever owns the UDP socket feeds `datagram_received`; streams the peer opens are announced to the
`LinkOwner`. A stream's queue is bounded by its writer's back-pressure, what it holds while paused by the peer's credit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from qh3.quic import events
from qh3.quic.connection import NetworkAddress

from qanat.errors import ProtocolError
from qanat.logger import get_logger
from qanat.net.layer import HIGH_WATER, LOW_WATER
from qanat.net.transport import Receiver
from qanat.tunnel.connection import ConnectionLost, StreamReset
from qanat.tunnel.quic_engine import CONNECTION_WINDOW, STREAM_WINDOW, Engine, StreamIds

_log = get_logger("qanat.tunnel")

NO_ERROR = 0
INTERNAL_ERROR = 1
_GRANT_STEP = STREAM_WINDOW // 2


class LinkOwner(Protocol):
    """Who hears of a link: one end of a tunnel connection."""

    def handshake_completed(self) -> None:
        """TLS is done; streams may be opened."""
        ...

    def stream_opened(self, stream: QUICStream) -> Receiver:
        """The protocol for a stream that the peer opened."""
        ...

    def link_lost(self, exc: Exception | None) -> None:
        """The link is gone, and its streams have been told."""
        ...


class QUICLink:
    """A QUIC connection and its streams."""

    def __init__(self, engine: Engine, owner: LinkOwner, send: Callable[[bytes, NetworkAddress], None]) -> None:
        self.engine, self._owner, self._send = engine, owner, send
        self._loop = asyncio.get_running_loop()
        self.streams: dict[int, QUICStream] = {}
        self.waiting: set[QUICStream] = set()
        """Streams with bytes that wait for credit or for the wire."""
        self._met = StreamIds()
        """Those that the peer opened, gone ones too."""
        self.held = 0
        """Bytes received that paused streams have not passed on."""
        self.lost = False
        self.on_ids: Callable[[bytes, bool], None] = lambda _cid, _issued: None
        """Called when the peer may use another connection id for us, or no longer uses one."""
        self._granted = CONNECTION_WINDOW
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._transmit_scheduled = False
        self._ping: asyncio.TimerHandle | None = None

    # From the socket.

    def datagram_received(self, data: bytes, address: NetworkAddress) -> None:
        """A datagram of this connection."""
        if not self.lost:
            self.engine.receive_datagram(data, address, now=self._loop.time())
            self._hear()
            self.transmit_soon()

    # For the owner.

    def open_stream(self, protocol: Receiver) -> QUICStream:
        """A new stream towards the peer. `protocol.connection_made` is the caller's to call."""
        return self._add(self.engine.open_stream(), protocol)

    def close(self, reason: str = "") -> None:
        """Tell the peer, after what is there to send, and forget everything."""
        if not self.lost:
            self._transmit()
            self.engine.close(NO_ERROR, reason_phrase=reason)
            self._transmit()
            self._lose(None)

    def transmit_soon(self) -> None:
        """Send what is there to send at the end of this turn of the loop."""
        if not self._transmit_scheduled:
            self._transmit_scheduled = True
            self._loop.call_soon(self._transmit)

    def keep_alive(self, every: float) -> None:
        """Ping that often from now on, so that silence means death."""
        self._ping = self._loop.call_later(every, self._send_ping, every)

    # The works.

    def _send_ping(self, every: float) -> None:
        self.engine.send_ping(0)
        self.transmit_soon()
        self.keep_alive(every)

    def _transmit(self) -> None:
        self._transmit_scheduled = False
        if self.lost:
            return
        for stream in list(self.waiting):
            stream.feed()
        for data, address in self.engine.datagrams_to_send(now=self._loop.time()):
            self._send(data, address)
        for stream in list(self.waiting):
            stream.after_send()
        self._set_timer()

    def _set_timer(self) -> None:
        at = self.engine.get_timer()
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self._loop.call_at(at, self._handle_timer)

    def _handle_timer(self) -> None:
        now = max(self._timer_at or 0.0, self._loop.time())
        self._timer = self._timer_at = None
        self.engine.handle_timer(now=now)
        self._hear()
        self._transmit()

    def _hear(self) -> None:
        while not self.lost and (event := self.engine.next_event()) is not None:
            if isinstance(event, events.StreamDataReceived):
                self._hear_data(event)
            elif isinstance(event, events.StreamReset):
                if stream := self.streams.get(event.stream_id):
                    stream.peer_reset(event.error_code)
                self.grant()  # what never arrived counts as received too
            elif isinstance(event, events.StopSendingReceived):
                self.engine.silence(event.stream_id)
                if stream := self.streams.get(event.stream_id):
                    stream.peer_stopped(event.error_code)
            elif isinstance(event, events.ConnectionIdIssued):
                self.on_ids(event.connection_id, True)
            elif isinstance(event, events.ConnectionIdRetired):
                self.on_ids(event.connection_id, False)
            elif isinstance(event, events.HandshakeCompleted):
                self._owner.handshake_completed()
            elif isinstance(event, events.ConnectionTerminated):
                self._lose(_explain(event))

    def _hear_data(self, event: events.StreamDataReceived) -> None:
        stream = self.streams.get(event.stream_id) or self._meet(event.stream_id)
        if stream is not None:
            stream.receive(event.data, event.end_stream)
        self.grant()

    def _meet(self, stream_id: int) -> QUICStream | None:
        """The stream that begins here. None for the rest of one that we have let go of, whose bytes must never be read
        as the head of another, and for a one-way stream, of which we know no use."""
        is_ours = (stream_id % 2 == 0) == self.engine.configuration.is_client
        if is_ours or stream_id % 4 >= 2 or stream_id in self._met:
            return None
        self._met.add(stream_id)
        stream = self._add(stream_id, asyncio.Protocol())
        stream.set_protocol(self._owner.stream_opened(stream))
        stream.get_protocol().connection_made(stream)
        return stream

    def grant(self) -> None:
        """Let the peer send as much as has been taken, in large steps."""
        limit = self.engine.bytes_received - self.held + CONNECTION_WINDOW
        if limit - self._granted >= CONNECTION_WINDOW // 4:
            self._granted = limit
            self.engine.grant_connection(limit)
            self.transmit_soon()

    def _add(self, stream_id: int, protocol: Receiver) -> QUICStream:
        stream = self.streams[stream_id] = QUICStream(self, stream_id, protocol)
        return stream

    def _lose(self, exc: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        for timer in (self._timer, self._ping):
            if timer is not None:
                timer.cancel()
        for stream in list(self.streams.values()):
            stream.lose(exc or ConnectionLost("connection closed"))
        self.waiting.clear()
        self._owner.link_lost(exc)


def _explain(event: events.ConnectionTerminated) -> Exception | None:
    """Why a connection ended; None when the peer closed it in an orderly way."""
    if event.frame_type is None and event.error_code == NO_ERROR and event.reason_phrase != "Idle timeout":
        return None
    reason = event.reason_phrase or f"code {event.error_code:#x}"
    return ConnectionLost(f"quic: {reason.lower()}")


class QUICStream(asyncio.Transport):
    """One stream as a transport. `close` ends it after what is queued, `abort` resets it; both stop the peer too."""

    def __init__(self, link: QUICLink, stream_id: int, protocol: Receiver) -> None:
        super().__init__()
        self._link, self._engine, self.stream_id = link, link.engine, stream_id
        self._protocol = protocol
        self._queued = bytearray()
        self._handed = 0
        self._eof_queued = self._eof_sent = self._eof_received = False
        self._closing = self._lost = self._writer_paused = self._reading_paused = self._eof_told = False
        self._held: list[bytes] = []
        self._received = 0
        self._granted = STREAM_WINDOW
        # How much may be under way unread: less than the peer's window, or one reader that stalls would stall them all.
        self._cap = max(self._engine.initial_stream_credit // 2, 1)
        self._first_credit = self._engine.initial_stream_credit

    # For the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._eof_queued or self._lost:
            return
        self._queued += data
        if not self._writer_paused and self.get_write_buffer_size() > HIGH_WATER:
            self._writer_paused = True
            self._protocol.pause_writing()
        self._wake()

    def write_eof(self) -> None:
        if not self._eof_queued and not self._lost:
            self._eof_queued = True
            self._wake()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self.write_eof()
            self._closing = True
            self._drop_held()
            self._wake()

    def abort(self) -> None:
        self.reset(NO_ERROR)

    def reset(self, error_code: int) -> None:
        """Break off both directions."""
        if self._lost:
            return
        self._queued.clear()
        if self._engine.is_writable(self.stream_id):
            self._forget_unsent()
            self._engine.reset_stream(self.stream_id, error_code)
        self._stop_peer(error_code)
        self._closing = True
        self._link.transmit_soon()
        self._link._loop.call_soon(self.lose, None)

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._link._loop.call_soon(self._pass_on)

    def is_reading(self) -> bool:
        return not self._reading_paused

    def get_write_buffer_size(self) -> int:
        sent = self._engine.highest_sent(self.stream_id)
        return len(self._queued) + (self._handed - sent if sent is not None else 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are the connection's; they hold for all its streams."""

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.stream_id if name == "stream_id" else default

    # For the link.

    def receive(self, data: bytes, end: bool) -> None:
        """Bytes from the peer, perhaps its last."""
        self._received += len(data)
        self._eof_received = self._eof_received or end
        if self._closing:
            return
        if data:
            self._held.append(data)
            self._link.held += len(data)
        self._pass_on()

    def unread(self, data: bytes) -> None:
        """Put bytes back that were passed on too early: they come again, as soon as reading is not paused."""
        self._held.insert(0, data)
        self._link.held += len(data)

    def peer_reset(self, error_code: int) -> None:
        """The peer broke its direction off."""
        if self._engine.is_writable(self.stream_id):
            self._forget_unsent()
            self._engine.reset_stream(self.stream_id, NO_ERROR)
        self.lose(StreamReset(error_code))

    def peer_stopped(self, error_code: int) -> None:
        """The peer wants no more of ours; qh3 has reset our direction already."""
        self._forget_unsent()
        self._queued.clear()
        self._eof_queued = self._eof_sent = True
        self._protocol_stopped(error_code)

    def feed(self) -> None:
        """Hand queued bytes over, as far as the peer's credit goes."""
        if not self._engine.is_writable(self.stream_id):
            return
        room = min(self._room(), self._engine.connection_credit)
        if self._queued and room > 0:
            data = bytes(self._queued[:room])
            del self._queued[:room]
            self._handed += len(data)
            self._engine.write(self.stream_id, data)
        if self._eof_queued and not self._queued and not self._eof_sent:
            self._eof_sent = True
            self._engine.write(self.stream_id, b"", end=True)

    def after_send(self) -> None:
        """Datagrams have gone out: wake the writer, or finish."""
        left = self.get_write_buffer_size()
        if self._writer_paused and left <= LOW_WATER and not self._lost:
            self._writer_paused = False
            self._protocol.resume_writing()
        if not left and not self._queued:
            self._link.waiting.discard(self)
            if self._closing and self._eof_sent:
                if not self._eof_received:
                    self._stop_peer(NO_ERROR)
                self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """It is over: tell the protocol, once."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._drop_held()
        self._link.streams.pop(self.stream_id, None)
        self._link.waiting.discard(self)
        self._protocol.connection_lost(exc)

    def _protocol_stopped(self, error_code: int) -> None:
        if self._eof_received or self._closing:
            self.lose(None)
        elif isinstance(self._protocol, StopAware):
            self._protocol.peer_stopped(error_code)

    def _wake(self) -> None:
        self._link.waiting.add(self)
        self._link.transmit_soon()

    def _room(self) -> int:
        """How many bytes may be handed over: what was taken by the peer's reader, plus the cap."""
        credit = self._engine.stream_credit(self.stream_id)
        return min(credit, credit - self._first_credit + self._cap) - self._handed

    def _forget_unsent(self) -> None:
        sent = self._engine.highest_sent(self.stream_id)
        if sent is not None:
            self._engine.forget_unsent(self._handed - sent)
            self._handed = sent

    def _stop_peer(self, error_code: int) -> None:
        if not self._eof_received and self._engine.highest_sent(self.stream_id) is not None:
            self._engine.stop_stream(self.stream_id, error_code)
            self._link.transmit_soon()

    def _pass_on(self) -> None:
        try:
            while self._held and not self._reading_paused and not self._closing:
                data = self._held.pop(0)
                self._link.held -= len(data)
                self._protocol.data_received(data)
            if self._eof_received and not (self._held or self._reading_paused or self._closing or self._eof_told):
                self._eof_told = True
                if not self._protocol.eof_received():
                    self.close()
        except ProtocolError:
            self.reset(NO_ERROR)
        except Exception:  # a bug in one stream's protocol ends that stream only
            _log.exception("stream failed", stream_id=self.stream_id)
            self.reset(INTERNAL_ERROR)
        self._grant()

    def _grant(self) -> None:
        limit = self._received - sum(map(len, self._held)) + STREAM_WINDOW
        if not self._eof_received and limit - self._granted >= _GRANT_STEP:
            self._granted = limit
            self._engine.grant_stream(self.stream_id, limit)
            self._link.transmit_soon()
        self._link.grant()

    def _drop_held(self) -> None:
        if self._held:
            self._link.held -= sum(map(len, self._held))
            self._held.clear()
            self._link.grant()


class StopAware:
    """A protocol that wants to know when the peer no longer listens."""

    def peer_stopped(self, error_code: int) -> None:
        """What we write from now on goes nowhere."""
