"""What an HTTP/2 endpoint is asked to do, and the state that this and `connection` share."""

from __future__ import annotations

from typing import Final

import hpack

from qanat.wire.codec import Codec
from qanat.wire.http2.events import Event, Headers, StreamClosed
from qanat.wire.http2.flood import FloodGuard
from qanat.wire.http2.frames import (
    DEFAULT_WINDOW,
    END_STREAM,
    MAX_STREAM_ID,
    PREFACE,
    ErrorCode,
    FrameType,
    Settings,
    frame,
    goaway,
    header_frames,
    rst_stream,
    window_update,
)
from qanat.wire.http2.header_encoding import HeaderEncoder
from qanat.wire.http2.sending import CAP_SHARE, MIN_CAP, Sender, Stream

_STREAM_STEP: Final = 256 * 1024
_CONNECTION_STEP: Final = 512 * 1024
"""Acknowledged bytes that go into one WINDOW_UPDATE, at most."""


class Endpoint(Codec[Event]):
    """The commands of one end of a connection; `HTTP2Connection` adds the ears.

    `capped` limits each stream's unacknowledged bytes (see `sending`); for peers whose credit follows their local side.
    """

    def __init__(self, client: bool, settings: Settings | None = None, capped: bool = False) -> None:
        super().__init__()
        self.client = client
        self.settings = settings or Settings()
        self._streams: dict[int, Stream] = {}
        self._sender = Sender(self._streams, capped)
        self._frames = self._sender.outgoing
        self._events = self._sender.events
        self._encoder, self._decoder = HeaderEncoder(), hpack.Decoder(self.settings.max_header_list_size)
        self._decoder.max_allowed_table_size = self.settings.header_table_size
        self._flood = FloodGuard()
        self._going_away = False
        self._receive_window, self._credit = self.settings.connection_window, 0
        cap = max(
            MIN_CAP, self.settings.connection_window // CAP_SHARE
        )  # what a careful peer sends on a stream unheard
        self._stream_step = min(_STREAM_STEP, self.settings.initial_window // 4, cap // 2)
        self._connection_step = min(_CONNECTION_STEP, self.settings.connection_window // 4)
        self._next_stream_id, self._highest_peer_id = 1, 0
        self.peer_max_streams = MAX_STREAM_ID
        self.peer_allows_connect_protocol = False
        self._frames.append(PREFACE * client + self.settings.encode(client))
        if self.settings.connection_window > DEFAULT_WINDOW:
            self._frames.append(window_update(0, self.settings.connection_window - DEFAULT_WINDOW))

    def open_stream(self, headers: Headers, end_stream: bool = False) -> int:
        """Send a request's head (client only); returns the stream's id."""
        stream_id = self._next_stream_id
        self._next_stream_id += 2
        stream = self._sender.new_stream(stream_id, self.settings.initial_window)
        stream.no_body = (":method", "HEAD") in headers
        self._streams[stream_id] = stream
        self.send_headers(stream_id, headers, end_stream)
        return stream_id

    def send_headers(self, stream_id: int, headers: Headers, end_stream: bool = False) -> None:
        """Send an answer's head, informational or final. Ignored on a stream that is gone."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.local_open:
            return
        stream.answered = True
        block = self._encoder.encode(headers)
        self._frames.append(header_frames(stream_id, block, end_stream, self._sender.max_frame_size))
        if end_stream:
            self._finish_sending(stream)

    def send_data(self, stream_id: int, data: bytes) -> int:
        """Send payload on a stream; what it returns and ignores says `Sender.send`."""
        return self._sender.send(stream_id, data)

    def end_stream(self, stream_id: int, trailers: Headers = ()) -> None:
        """End our side after what is queued."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.local_open or stream.end_queued:
            return
        stream.end_queued, stream.trailers = True, trailers
        if not stream.queue:
            if not trailers:
                self._frames.append(frame(FrameType.DATA, END_STREAM, stream_id))
            self._finish_sending(stream)

    def reset_stream(self, stream_id: int, error_code: int = ErrorCode.CANCEL) -> None:
        """Reset a stream; no event of it follows. Ignored on a stream that is gone."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._frames.append(rst_stream(stream_id, error_code))
            self._remove(stream)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """`size` received bytes have been taken: let the peer send as many more."""
        self._credit += size
        if self._credit >= self._connection_step:
            self._announce_credit()
        stream = self._streams.get(stream_id)
        if stream is None or not stream.remote_open:
            return
        stream.credit += size
        if stream.credit >= self._stream_step:
            stream.receive_window += stream.credit
            self._frames.append(window_update(stream_id, stream.credit))
            stream.credit = 0

    def queued(self, stream_id: int) -> int:
        """Bytes written on a stream that wait for the peer's window or for the socket."""
        stream = self._streams.get(stream_id)
        return stream.queued if stream is not None else 0

    def notify_below(self, stream_id: int, low_water: int) -> None:
        """Report `QueueDrained` once the stream's queue has fallen to `low_water` bytes."""
        self._streams[stream_id].low_water = low_water

    def ping(self, payload: bytes) -> None:
        """Send PING; `PingAcknowledged` brings the 8 bytes of `payload` back."""
        self._frames.append(frame(FrameType.PING, 0, 0, payload))

    def go_away(self, error_code: int = ErrorCode.NO_ERROR, debug: bytes = b"") -> None:
        """Refuse new streams; those open go on."""
        if not self._going_away:
            self._going_away = True
            self._frames.append(goaway(self._highest_peer_id, error_code, debug))

    def forgive(self) -> None:
        """Forget the peer's nuisances so far: limits on floods hold from one call to the next."""
        self._flood.reset()

    def data_to_send(self) -> bytes:
        """What to write now, in portions: call again until it returns nothing."""
        if self._sender.has_ready:
            self._sender.flush()
            self._end_drained()
        if not self._frames:
            return b""
        data = b"".join(self._frames)
        self._frames.clear()
        return data

    def events_received(self) -> list[Event]:
        if not self._events:
            return []
        events = self._events[:]
        self._events.clear()
        return events

    @property
    def held(self) -> bool:
        """Set while the socket takes no more: payload stays queued by stream; control frames still go out."""
        return self._sender.held

    @held.setter
    def held(self, value: bool) -> None:
        self._sender.held = value

    @property
    def open_streams(self) -> int:
        """Streams not yet closed on both sides."""
        return len(self._streams)

    @property
    def send_window(self) -> int:
        """What the peer lets us send on the whole connection, in bytes."""
        return self._sender.window

    # For the receiving half.

    def _acknowledge_connection(self, size: int) -> None:
        self._credit += size
        if self._credit >= self._connection_step:
            self._announce_credit()

    def _announce_credit(self) -> None:
        self._receive_window += self._credit
        self._frames.append(window_update(0, self._credit))
        self._credit = 0

    def _end_drained(self) -> None:
        """End the streams whose queue has run out; END_STREAM went with their last payload unless trailers follow."""
        for stream in self._sender.ended:
            self._finish_sending(stream)
        self._sender.ended.clear()

    def _finish_sending(self, stream: Stream) -> None:
        if stream.trailers:
            block = self._encoder.encode(stream.trailers)
            self._frames.append(header_frames(stream.id, block, True, self._sender.max_frame_size))
        stream.local_open = False
        if not stream.remote_open:
            self._remove(stream)
            self._events.append(StreamClosed(stream.id))

    def _remove(self, stream: Stream) -> None:
        self._sender.forget(stream)
        del self._streams[stream.id]
