"""HTTP/2 connections for tests: a pair of ours, and frames made by hand."""

from __future__ import annotations

import struct
from typing import Any

import hpack

from qanat.wire.http2 import HTTP2Connection, Settings
from qanat.wire.http2.events import Headers
from qanat.wire.http2.frames import END_HEADERS, END_STREAM, PREFACE, FrameType, frame
from tests.support.chunks import exchange

GET: Headers = ((":method", "GET"), (":scheme", "https"), (":authority", "app.example"), (":path", "/"))
POST: Headers = ((":method", "POST"), *GET[1:])
OK: Headers = ((":status", "200"),)


def pair(
    client: Settings | None = None, server: Settings | None = None, capped: bool = False
) -> tuple[HTTP2Connection, HTTP2Connection]:
    """A client and a server that have exchanged their settings."""
    a, b = HTTP2Connection(True, client, capped), HTTP2Connection(False, server)
    exchange(a, b)
    return a, b


def settings_frame(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS."""
    return frame(FrameType.SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in pairs))


def headers_frame(stream_id: int, headers: Headers, flags: int = END_HEADERS, encoder: Any = None) -> bytes:
    """HEADERS, by an encoder of its own that leaves the table alone unless one is given."""
    return frame(FrameType.HEADERS, flags, stream_id, block(headers, encoder))


def block(headers: Headers, encoder: Any = None) -> bytes:
    """A header block; without an encoder, one that touches no table."""
    sensitive = [(name.encode("latin-1"), value.encode("latin-1"), encoder is None) for name, value in headers]
    encoded: bytes = (encoder or hpack.Encoder()).encode(sensitive)
    return encoded


OPENING = PREFACE + settings_frame()
"""What a client may say first."""
BARE_GET = headers_frame(1, GET, END_HEADERS | END_STREAM)


def server_fed(data: bytes, settings: Settings | None = None) -> HTTP2Connection:
    """A server that has received the opening and `data`; its own opening has been taken."""
    server = HTTP2Connection(False, settings)
    server.receive_data(OPENING)
    server.data_to_send()
    server.events_received()
    server.receive_data(data)
    return server


def client_fed(data: bytes, settings: Settings | None = None, capped: bool = False) -> HTTP2Connection:
    """A client with one request open (stream 1) that has received settings and `data`."""
    client = HTTP2Connection(True, settings, capped)
    client.open_stream(POST)
    client.receive_data(settings_frame())
    client.data_to_send()
    client.events_received()
    client.receive_data(data)
    return client


def frames_of(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Sent bytes as frames: type, flags, stream, payload."""
    found = []
    data = data.removeprefix(PREFACE)
    while data:
        word, flags, stream_id = struct.unpack_from(">IBI", data)
        length = word >> 8
        found.append((word & 0xFF, flags, stream_id, data[9 : 9 + length]))
        data = data[9 + length :]
    return found
