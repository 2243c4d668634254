"""HTTP/2 as a codec, client or server (RFC 9113).

Framing is our own, because it is the byte path and because credit must be given by hand; header compression is
`hpack`. Whoever owns the socket writes `data_to_send()` until it is empty, sets `held` while the socket takes no
more, and calls `forgive` every ten seconds or so. Priorities and pushes are not for us: ignored, and refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import hpack

from qanat.wire.http2.endpoint import Endpoint
from qanat.wire.http2.events import (
    DataReceived,
    GoAwayReceived,
    Headers,
    InformationalReceived,
    PingAcknowledged,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from qanat.wire.http2.flood import Nuisance
from qanat.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADER_SIZE,
    MAX_FRAME_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_FRAME_SIZE,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    ErrorCode,
    FrameType,
    HTTP2Error,
    SettingID,
    Settings,
    frame,
    goaway,
    rst_stream,
)
from qanat.wire.http2.header_encoding import KNOWN_NAMES
from qanat.wire.http2.headers import Malformed, check_request, check_response, check_trailers, join_cookies
from qanat.wire.http2.sending import Stream

MAX_CONTINUATIONS: Final = 64
"""CONTINUATION frames of one header block."""
MAX_SETTINGS: Final = 64
"""Settings of one frame; fewer than ten are defined."""


@dataclass(slots=True)
class _HeaderBlock:
    """A header block on its way in."""

    stream_id: int
    end_stream: bool
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0


class HTTP2Connection(Endpoint):
    """One end of an HTTP/2 connection: commands in `Endpoint`, events in `events`."""

    def __init__(self, client: bool, settings: Settings | None = None, capped: bool = False) -> None:
        super().__init__(client, settings, capped)
        self._chunks: list[bytes] = []
        self._chunks_size, self._needed = 0, HEADER_SIZE
        self._data_left = self._data_stream = 0
        self._preface_left = b"" if client else PREFACE
        self._got_settings = self._failed = False
        self._block: _HeaderBlock | None = None

    def receive_data(self, data: bytes) -> None:
        if self._failed:
            return
        position = 0
        if self._data_left:
            position = self._receive_more_data(data)
        elif self._chunks:
            self._chunks.append(data)
            self._chunks_size += len(data)
            if self._chunks_size < self._needed:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        try:
            rest = self._receive_frames(data, self._receive_preface(data) if self._preface_left else position)
        except HTTP2Error as error:
            self._failed = True
            self._frames.append(goaway(self._highest_peer_id, error.error_code, error.reason.encode()))
            raise
        if rest:
            self._chunks.append(rest)
            self._chunks_size = len(rest)

    def _receive_preface(self, data: bytes) -> int:
        """Consume the client's preface; returns where the frames begin."""
        got = data[: len(self._preface_left)]
        if not self._preface_left.startswith(got):
            raise HTTP2Error("no HTTP/2 preface")
        self._preface_left = self._preface_left[len(got) :]
        return len(got)

    def _receive_frames(self, data: bytes, position: int) -> bytes:
        """Handle every whole frame, and payload as it comes; returns what is left over."""
        end, limit = len(data), self.settings.max_frame_size
        streams, events = self._streams, self._events
        self._needed = HEADER_SIZE
        while end - position >= HEADER_SIZE:
            # Byte by byte: native code does that in a tenth of what `unpack_from` takes.
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            kind, flags = data[position + 3], data[position + 4]
            stream_id = (data[position + 5] & 0x7F) << 24 | data[position + 6] << 16
            stream_id |= data[position + 7] << 8 | data[position + 8]
            if length > limit:
                raise HTTP2Error("frame too large", ErrorCode.FRAME_SIZE_ERROR)
            start = position + HEADER_SIZE
            position = start + length
            if kind == 0 and length and not flags and self._block is None:
                stream = streams.get(stream_id)  # the common case, inline: payload on an open stream
                if stream is not None and stream.remote_open and stream.has_head and stream.expected is None:
                    self._receive_window -= length
                    stream.receive_window -= length
                    if self._receive_window < 0 or stream.receive_window < 0:
                        raise HTTP2Error("flow-control window exceeded", ErrorCode.FLOW_CONTROL_ERROR)
                    if position <= end:
                        events.append(DataReceived(stream_id, data[start:position]))
                        continue
                    self._data_left, self._data_stream = position - end, stream_id
                    if start < end:
                        events.append(DataReceived(stream_id, data[start:]))
                    return b""
            if position > end:
                self._needed = HEADER_SIZE + length
                return data[start - HEADER_SIZE :]
            self._receive_frame(kind, flags, stream_id, data[start:position])
        return data[position:]

    def _receive_more_data(self, data: bytes) -> int:
        """More of a DATA frame that has begun; returns where it ends, or this piece does."""
        size = min(self._data_left, len(data))
        self._data_left -= size
        if self._data_stream in self._streams:
            self._events.append(DataReceived(self._data_stream, data if size == len(data) else data[:size]))
        else:  # reset since it began
            self._acknowledge_connection(size)
        return size

    def _receive_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._got_settings and (kind != FrameType.SETTINGS or flags & ACK):
            raise HTTP2Error("the first frame is not SETTINGS")
        if self._block is not None and (kind != FrameType.CONTINUATION or stream_id != self._block.stream_id):
            raise HTTP2Error("a header block is interrupted")
        match kind:
            case FrameType.DATA:
                self._receive_data_frame(flags, stream_id, payload)
            case FrameType.HEADERS:
                self._receive_headers(flags, stream_id, payload)
            case FrameType.WINDOW_UPDATE:
                self._receive_window_update(stream_id, payload)
            case FrameType.RST_STREAM:
                self._receive_reset(stream_id, payload)
            case FrameType.SETTINGS:
                self._receive_settings(flags, stream_id, payload)
            case FrameType.PING:
                self._receive_ping(flags, stream_id, payload)
            case FrameType.GOAWAY:
                self._receive_goaway(stream_id, payload)
            case FrameType.CONTINUATION:
                self._receive_continuation(flags, payload)
            case FrameType.PRIORITY:
                self._receive_priority(stream_id, payload)
            case FrameType.PUSH_PROMISE:
                raise HTTP2Error("PUSH_PROMISE was disabled")
            case _:
                self._flood.count(Nuisance.UNKNOWN_FRAMES)

    # Payload.

    def _receive_data_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._known_stream(stream_id)
        self._receive_window -= len(payload)
        if self._receive_window < 0:
            raise HTTP2Error("flow-control window exceeded", ErrorCode.FLOW_CONTROL_ERROR)
        data = _strip_padding(payload) if flags & PADDED else payload
        if not data and not flags & END_STREAM:
            self._flood.count(Nuisance.EMPTY_FRAMES)
        if stream is None or not stream.remote_open or not stream.has_head:
            self._acknowledge_connection(len(payload))
            if stream is not None:
                self._fail_stream(stream, ErrorCode.STREAM_CLOSED if stream.has_head else ErrorCode.PROTOCOL_ERROR)
            return
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            raise HTTP2Error("flow-control window exceeded", ErrorCode.FLOW_CONTROL_ERROR)
        if data:
            self._events.append(DataReceived(stream_id, data))
        if len(data) < len(payload):
            self.acknowledge(stream_id, len(payload) - len(data))
        if stream.expected is not None:
            stream.expected -= len(data)
            if stream.expected < 0:
                self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
                return
        if flags & END_STREAM:
            self._end_remote(stream)

    def _end_remote(self, stream: Stream) -> None:
        if stream.expected:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.remote_open = False
        self._events.append(StreamEnded(stream.id))
        if not stream.local_open:
            self._remove(stream)
            self._events.append(StreamClosed(stream.id))

    def _fail_stream(self, stream: Stream, error_code: ErrorCode) -> None:
        """Reset a stream on which the peer broke the rules."""
        self._flood.count(Nuisance.MALFORMED)
        self.reset_stream(stream.id, error_code)
        self._events.append(StreamReset(stream.id, error_code, by_peer=False))

    def _known_stream(self, stream_id: int) -> Stream | None:
        """The stream, or None if it is closed. Raises `HTTP2Error` if it was never opened."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        if stream_id == 0 or self._is_idle(stream_id):
            raise HTTP2Error("a frame on a stream that is not open")
        self._flood.count(Nuisance.LATE_FRAMES)
        return None

    def _is_idle(self, stream_id: int) -> bool:
        if stream_id % 2 == 0:  # a server's pushes: nobody has any
            return True
        return stream_id >= self._next_stream_id if self.client else stream_id > self._highest_peer_id

    # Header blocks.

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise HTTP2Error("HEADERS on stream 0")
        if flags & PADDED:
            payload = _strip_padding(payload)
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise HTTP2Error("HEADERS too short", ErrorCode.FRAME_SIZE_ERROR)
            payload = payload[5:]
        self._block = _HeaderBlock(stream_id, bool(flags & END_STREAM))
        self._extend_block(self._block, flags, payload)

    def _receive_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise HTTP2Error("CONTINUATION without HEADERS")
        self._extend_block(self._block, flags, payload)

    def _extend_block(self, block: _HeaderBlock, flags: int, payload: bytes) -> None:
        block.pieces.append(payload)
        block.size += len(payload)
        if block.size > self.settings.max_header_list_size or len(block.pieces) > MAX_CONTINUATIONS:
            raise HTTP2Error("header block too large", ErrorCode.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            self._block = None
            self._receive_block(block.stream_id, self._decode(b"".join(block.pieces)), block.end_stream)

    def _decode(self, block: bytes) -> Headers:
        try:
            decoded = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError:
            raise HTTP2Error("header list too large", ErrorCode.ENHANCE_YOUR_CALM) from None
        except hpack.HPACKError:
            raise HTTP2Error("header compression is broken", ErrorCode.COMPRESSION_ERROR) from None
        return tuple(
            (KNOWN_NAMES.get(name) or name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded
        )

    def _receive_block(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        if not self.client and stream_id % 2 and stream_id > self._highest_peer_id:
            self._highest_peer_id = stream_id
            self._receive_request(stream_id, headers, end_stream)
            return
        stream = self._known_stream(stream_id)
        if stream is None:
            return
        if not stream.remote_open:
            self._fail_stream(stream, ErrorCode.STREAM_CLOSED)
            return
        try:
            if stream.has_head:
                self._receive_trailers(stream, headers, end_stream)
            else:
                self._receive_response(stream, headers, end_stream)
        except Malformed:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)

    def _receive_request(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        if self._going_away or len(self._streams) >= self.settings.max_concurrent_streams:
            self._flood.count(Nuisance.REFUSED_STREAMS)
            self._frames.append(rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        try:
            expected = check_request(headers, self.settings.enable_connect_protocol)
        except Malformed:
            self._flood.count(Nuisance.MALFORMED)
            self._frames.append(rst_stream(stream_id, ErrorCode.PROTOCOL_ERROR))
            return
        stream = self._streams[stream_id] = self._sender.new_stream(stream_id, self.settings.initial_window)
        stream.has_head, stream.expected = True, expected
        self._events.append(RequestReceived(stream_id, join_cookies(headers), end_stream))
        if end_stream:
            self._end_remote(stream)

    def _receive_response(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        status, expected = check_response(headers)
        if status < 200:
            if end_stream:
                raise Malformed("an informational answer ends the stream")
            self._flood.count(Nuisance.EMPTY_FRAMES)
            self._events.append(InformationalReceived(stream.id, headers))
            return
        stream.has_head = True
        stream.expected = 0 if stream.no_body or status in (204, 304) else expected
        self._events.append(ResponseReceived(stream.id, headers))
        if end_stream:
            self._end_remote(stream)

    def _receive_trailers(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        if not end_stream:
            raise Malformed("trailers do not end the stream")
        check_trailers(headers)
        if not stream.expected:
            self._events.append(TrailersReceived(stream.id, headers))
        self._end_remote(stream)

    # Everything else.

    def _receive_window_update(self, stream_id: int, payload: bytes) -> None:
        increment = _number(payload) & MAX_WINDOW
        stream = self._known_stream(stream_id) if stream_id else None
        if stream_id == 0:
            if not increment:
                raise HTTP2Error("WINDOW_UPDATE by nothing")
            self._sender.credit_connection(increment)
            if self._sender.window > MAX_WINDOW:
                raise HTTP2Error("flow-control window too large", ErrorCode.FLOW_CONTROL_ERROR)
        elif stream is not None:
            if not increment:
                self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
            elif stream.send_window + increment > MAX_WINDOW:
                self._fail_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
            else:
                self._sender.credit(stream, increment)

    def _receive_reset(self, stream_id: int, payload: bytes) -> None:
        error_code = _number(payload)
        stream = self._known_stream(stream_id)
        if stream is None:
            return
        if not stream.answered:
            self._flood.count(Nuisance.UNANSWERED_RESETS)
        self._remove(stream)
        self._events.append(StreamReset(stream_id, error_code))

    def _receive_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise HTTP2Error("SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise HTTP2Error("SETTINGS of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        self._flood.count(Nuisance.SETTINGS)
        if flags & ACK:
            return
        self._got_settings = True
        if len(payload) > 6 * MAX_SETTINGS:
            raise HTTP2Error("too many settings in one frame", ErrorCode.ENHANCE_YOUR_CALM)
        for key, value in dict(struct.iter_unpack(">HI", payload)).items():  # each may walk all streams: only the last
            self._apply_setting(key, value)
        self._frames.append(frame(FrameType.SETTINGS, ACK, 0))
        self._events.append(SettingsReceived())

    def _apply_setting(self, key: int, value: int) -> None:
        match key:
            case SettingID.ENABLE_PUSH:
                if value > (0 if self.client else 1):
                    raise HTTP2Error("invalid ENABLE_PUSH")
            case SettingID.MAX_CONCURRENT_STREAMS:
                self.peer_max_streams = value
            case SettingID.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise HTTP2Error("flow-control window too large", ErrorCode.FLOW_CONTROL_ERROR)
                self._sender.change_initial_window(value)
                if any(stream.send_window > MAX_WINDOW for stream in self._streams.values()):
                    raise HTTP2Error("flow-control window too large", ErrorCode.FLOW_CONTROL_ERROR)
            case SettingID.MAX_FRAME_SIZE:
                if not MIN_FRAME_SIZE <= value <= MAX_FRAME_SIZE:
                    raise HTTP2Error("invalid MAX_FRAME_SIZE")
                self._sender.max_frame_size = value
            case SettingID.ENABLE_CONNECT_PROTOCOL:
                if value > 1:
                    raise HTTP2Error("invalid ENABLE_CONNECT_PROTOCOL")
                self.peer_allows_connect_protocol = bool(value)

    def _receive_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise HTTP2Error("PING on a stream")
        if len(payload) != 8:
            raise HTTP2Error("PING of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        if flags & ACK:
            self._events.append(PingAcknowledged(payload))
            return
        self._flood.count(Nuisance.PINGS)
        self._frames.append(frame(FrameType.PING, ACK, 0, payload))

    def _receive_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise HTTP2Error("GOAWAY on a stream")
        if len(payload) < 8:
            raise HTTP2Error("GOAWAY of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        last, error_code = struct.unpack_from(">II", payload)
        last &= MAX_STREAM_ID
        self._flood.count(Nuisance.SETTINGS)
        self._events.append(GoAwayReceived(last, error_code, payload[8:]))
        refused = [stream for stream in self._streams.values() if self.client and stream.id > last]
        for stream in refused:
            self._remove(stream)
            self._events.append(StreamReset(stream.id, ErrorCode.REFUSED_STREAM))

    def _receive_priority(self, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise HTTP2Error("PRIORITY on stream 0")
        if len(payload) != 5:
            raise HTTP2Error("PRIORITY of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        self._flood.count(Nuisance.PRIORITIES)


def _number(payload: bytes) -> int:
    """The 32 bits that WINDOW_UPDATE and RST_STREAM consist of."""
    if len(payload) != 4:
        raise HTTP2Error("a frame of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
    return int.from_bytes(payload, "big")


def _strip_padding(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise HTTP2Error("more padding than payload")
    return payload[1 : len(payload) - payload[0]]
