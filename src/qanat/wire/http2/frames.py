"""HTTP/2 frames: numbers, errors, and how each frame is written (RFC 9113 4 to 7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from qanat.errors import ProtocolError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER: Final = struct.Struct(">IBI")
"""Length (24 bits) and type (8 bits) in one number, then flags, then the stream's id."""
HEADER_SIZE: Final = 9
DEFAULT_WINDOW: Final = 65_535
MIN_FRAME_SIZE: Final = 16_384
MAX_FRAME_SIZE: Final = 2**24 - 1
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20


class FrameType(IntEnum):
    """RFC 9113 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ErrorCode(IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class SettingID(IntEnum):
    """RFC 9113 6.5.2, RFC 8441 3, RFC 9218 2.1."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


@dataclass(eq=False)
class HTTP2Error(ProtocolError):
    """The peer broke HTTP/2 in a way that ends the connection; the codec has queued the GOAWAY that says so."""

    code = "http2_error"
    error_code: ErrorCode = ErrorCode.PROTOCOL_ERROR


@dataclass(frozen=True, slots=True)
class Settings:
    """What we grant the peer. `initial_window` (per stream) and `connection_window` are in bytes."""

    initial_window: int = DEFAULT_WINDOW
    connection_window: int = DEFAULT_WINDOW
    max_concurrent_streams: int = 100
    max_frame_size: int = MIN_FRAME_SIZE
    max_header_list_size: int = 65_536
    header_table_size: int = 4_096
    enable_connect_protocol: bool = False
    """Extended CONNECT (RFC 8441), server only."""

    def __post_init__(self) -> None:
        # Below the default a peer may overrun us, rightly, until it has read our SETTINGS.
        if not DEFAULT_WINDOW <= self.initial_window <= MAX_WINDOW:
            raise ValueError("initial_window out of range")
        if not DEFAULT_WINDOW <= self.connection_window <= MAX_WINDOW:
            raise ValueError("connection_window out of range")
        if not MIN_FRAME_SIZE <= self.max_frame_size <= MAX_FRAME_SIZE:
            raise ValueError("max_frame_size out of range")

    def encode(self, client: bool) -> bytes:
        """The SETTINGS frame that announces them."""
        pairs = [
            (SettingID.HEADER_TABLE_SIZE, self.header_table_size),
            (SettingID.INITIAL_WINDOW_SIZE, self.initial_window),
            (SettingID.MAX_FRAME_SIZE, self.max_frame_size),
            (SettingID.MAX_HEADER_LIST_SIZE, self.max_header_list_size),
            (SettingID.NO_RFC7540_PRIORITIES, 1),
        ]
        if client:
            pairs.append((SettingID.ENABLE_PUSH, 0))
        else:
            pairs.append((SettingID.MAX_CONCURRENT_STREAMS, self.max_concurrent_streams))
            if self.enable_connect_protocol:
                pairs.append((SettingID.ENABLE_CONNECT_PROTOCOL, 1))
        return frame(FrameType.SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in pairs))


def frame(kind: FrameType, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def header_frames(stream_id: int, block: bytes, end_stream: bool, max_frame_size: int) -> bytes:
    """HEADERS, with as many CONTINUATION frames as the block needs."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame_size:
        return frame(FrameType.HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[start : start + max_frame_size] for start in range(0, len(block), max_frame_size)]
    middle = b"".join(frame(FrameType.CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1])
    last = frame(FrameType.CONTINUATION, END_HEADERS, stream_id, pieces[-1])
    return frame(FrameType.HEADERS, flags, stream_id, pieces[0]) + middle + last


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE, for the connection when `stream_id` is 0."""
    return struct.pack(">IBII", 4 << 8 | FrameType.WINDOW_UPDATE, 0, stream_id, increment)


def rst_stream(stream_id: int, error_code: int) -> bytes:
    """RST_STREAM."""
    return struct.pack(">IBII", 4 << 8 | FrameType.RST_STREAM, 0, stream_id, error_code)


def goaway(last_stream_id: int, error_code: int, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", last_stream_id, error_code) + debug)
