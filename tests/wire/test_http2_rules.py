"""HTTP/2 peers that break the rules: which breach ends a stream, which the connection, and with what code."""

from __future__ import annotations

import struct

import hpack
import pytest

from qanat.wire.http2 import ErrorCode, HTTP2Connection, HTTP2Error, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.http2.events import Headers
from qanat.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY_FLAG,
    FrameType,
    frame,
    goaway,
    rst_stream,
    window_update,
)
from tests.support.http2 import (
    BARE_GET,
    GET,
    OK,
    OPENING,
    POST,
    block,
    client_fed,
    frames_of,
    headers_frame,
    server_fed,
    settings_frame,
)
from tests.support.requirements import requirement

OPEN_POST = headers_frame(1, POST)
PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
CALM, CLOSED, COMPRESSION = ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.STREAM_CLOSED, ErrorCode.COMPRESSION_ERROR


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(FrameType.DATA, flags, stream_id, payload)


SERVER_BREACHES: dict[str, tuple[bytes, ErrorCode]] = {
    "frame larger than we allow": (frame(FrameType.DATA, 0, 1, bytes(16_385)), SIZE),
    "data on stream 0": (data(0, b"x"), PROTOCOL),
    "data on an idle stream": (data(5, b"x"), PROTOCOL),
    "data on a stream of the server's": (data(2, b"x"), PROTOCOL),
    "padding longer than the payload": (OPEN_POST + data(1, b"\x05abc", PADDED), PROTOCOL),
    "padded without a length": (OPEN_POST + data(1, b"", PADDED), PROTOCOL),
    "headers on stream 0": (headers_frame(0, GET), PROTOCOL),
    "headers on an even stream": (headers_frame(2, GET), PROTOCOL),
    "headers with a priority cut short": (frame(FrameType.HEADERS, END_HEADERS | PRIORITY_FLAG, 1, b"abc"), SIZE),
    "block interrupted by data": (headers_frame(1, GET, 0) + data(1, b"x"), PROTOCOL),
    "block continued on another stream": (headers_frame(1, GET, 0) + frame(FrameType.CONTINUATION, 4, 3), PROTOCOL),
    "continuation of nothing": (frame(FrameType.CONTINUATION, END_HEADERS, 1), PROTOCOL),
    "block that never ends": (headers_frame(1, GET, 0) + frame(FrameType.CONTINUATION, 0, 1) * 70, CALM),
    "block too large": (headers_frame(1, GET, 0) + frame(FrameType.CONTINUATION, 0, 1, bytes(16_000)) * 5, CALM),
    "header list too large": (
        # one field of 2,000 bytes put into the table, then named 4,000 times by a byte each
        frame(FrameType.HEADERS, END_HEADERS, 1, block((("a", "0" * 2_000),), hpack.Encoder()) + b"\xbe" * 4_000),
        CALM,
    ),
    "compression broken": (frame(FrameType.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"), COMPRESSION),
    "push": (frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL),
    "settings on a stream": (frame(FrameType.SETTINGS, 0, 1), PROTOCOL),
    "settings cut short": (frame(FrameType.SETTINGS, 0, 0, bytes(5)), SIZE),
    "settings without end": (settings_frame(*[(4, size) for size in range(65)]), CALM),
    "settings acknowledged with a payload": (frame(FrameType.SETTINGS, ACK, 0, bytes(6)), SIZE),
    "push setting out of range": (settings_frame((2, 2)), PROTOCOL),
    "window setting out of range": (settings_frame((4, 2**31)), FLOW),
    "frame size setting out of range": (settings_frame((5, 100)), PROTOCOL),
    "connect setting out of range": (settings_frame((8, 2)), PROTOCOL),
    "ping on a stream": (frame(FrameType.PING, 0, 1, bytes(8)), PROTOCOL),
    "ping of a wrong size": (frame(FrameType.PING, 0, 0, bytes(7)), SIZE),
    "goaway on a stream": (frame(FrameType.GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "goaway cut short": (frame(FrameType.GOAWAY, 0, 0, bytes(7)), SIZE),
    "window update of a wrong size": (frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(5)), SIZE),
    "window update by nothing": (window_update(0, 0), PROTOCOL),
    "window update beyond the limit": (window_update(0, 2**31 - 1), FLOW),
    "window update on an idle stream": (window_update(7, 1), PROTOCOL),
    "window setting beyond the limit for a stream": (
        OPEN_POST + window_update(1, 2**30) + settings_frame((4, 2**31 - 1)),
        FLOW,
    ),
    "reset of an idle stream": (rst_stream(9, 0), PROTOCOL),
    "reset of a wrong size": (OPEN_POST + frame(FrameType.RST_STREAM, 0, 1, bytes(3)), SIZE),
    "priority on stream 0": (frame(FrameType.PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "priority of a wrong size": (frame(FrameType.PRIORITY, 0, 1, bytes(4)), SIZE),
    "more data than the window": (OPEN_POST + data(1, bytes(16_384)) * 4, FLOW),
}


@requirement("wire:h2:connection-errors")
@pytest.mark.parametrize("name", SERVER_BREACHES)
def test_a_breach_that_ends_the_connection(name: str) -> None:
    breach, code = SERVER_BREACHES[name]
    server = HTTP2Connection(False)
    server.receive_data(OPENING)
    server.data_to_send()
    with pytest.raises(HTTP2Error) as caught:
        server.receive_data(breach)
    assert caught.value.error_code == code
    kind, _, _, payload = frames_of(server.data_to_send())[-1]
    assert kind == FrameType.GOAWAY
    assert struct.unpack_from(">II", payload)[1] == code
    server.receive_data(b"anything")  # deaf from now on
    assert server.data_to_send() == b""


@requirement("wire:h2:connection-errors")
@pytest.mark.parametrize(
    "opening",
    [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", PREFACE + BARE_GET],
    ids=["HTTP/1.1", "no preface", "no settings"],
)
def test_a_wrong_opening_ends_the_connection(opening: bytes) -> None:
    with pytest.raises(HTTP2Error):
        HTTP2Connection(False).receive_data(opening)


CLIENT_BREACHES: dict[str, tuple[bytes, ErrorCode]] = {
    "answer on an idle stream": (headers_frame(3, OK), PROTOCOL),
    "push": (frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL),
    "push enabled by a server": (settings_frame((2, 1)), PROTOCOL),
}


@requirement("wire:h2:connection-errors")
@pytest.mark.parametrize("name", CLIENT_BREACHES)
def test_a_servers_breach_that_ends_the_connection(name: str) -> None:
    breach, code = CLIENT_BREACHES[name]
    with pytest.raises(HTTP2Error) as caught:
        client_fed(breach)
    assert caught.value.error_code == code


def without(name: str) -> Headers:
    return tuple(field for field in GET if field[0] != name)


MALFORMED_REQUESTS: dict[str, Headers] = {
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "empty path": (*without(":path"), (":path", "")),
    "path with a space": (*without(":path"), (":path", "/a b")),
    "path with a fragment": (*without(":path"), (":path", "/a#b")),
    "relative path": (*without(":path"), (":path", "a")),
    "asterisk for GET": (*without(":path"), (":path", "*")),
    "method with a space": (*without(":method"), (":method", "GET /")),
    "status in a request": (*GET, (":status", "200")),
    "unknown pseudo-header": (*GET, (":foo", "a")),
    "pseudo-header twice": (*GET, (":path", "/")),
    "pseudo-header after a regular one": (*GET[:3], ("a", "b"), GET[3]),
    "protocol not enabled": (*GET, (":protocol", "websocket")),
    "upper case": (*GET, ("Accept", "a")),
    "empty name": (*GET, ("", "a")),
    "space in a name": (*GET, ("a b", "a")),
    "colon in a name": (*GET, ("a:b", "a")),
    "line break in a value": (*GET, ("a", "b\r\nc: d")),
    "nul in a value": (*GET, ("a", "b\0")),
    "leading space": (*GET, ("a", " b")),
    "trailing tab": (*GET, ("a", "b\t")),
    "connection": (*GET, ("connection", "close")),
    "transfer-encoding": (*GET, ("transfer-encoding", "chunked")),
    "upgrade": (*GET, ("upgrade", "h2c")),
    "te": (*GET, ("te", "gzip")),
    "two lengths": (*GET, ("content-length", "1"), ("content-length", "2")),
    "length that is no number": (*GET, ("content-length", "+1")),
    "two hosts": (*GET, ("host", "app.example"), ("host", "other.example")),
    "host other than authority": (*GET, ("host", "other.example")),
    "authority with user": (*without(":authority"), (":authority", "a@b")),
    "CONNECT with a path": ((":method", "CONNECT"), *GET[1:]),
    "CONNECT without authority": ((":method", "CONNECT"),),
}


@requirement("wire:h2:malformed")
@pytest.mark.parametrize("name", MALFORMED_REQUESTS)
def test_a_malformed_request_is_reset_and_the_connection_lives_on(name: str) -> None:
    fields = MALFORMED_REQUESTS[name]
    server = server_fed(headers_frame(1, fields, END_HEADERS | END_STREAM))
    assert server.events_received() == []
    assert frames_of(server.data_to_send()) == [(FrameType.RST_STREAM, 0, 1, struct.pack(">I", PROTOCOL))]
    server.receive_data(headers_frame(3, GET, END_HEADERS | END_STREAM))
    assert server.events_received()[0] == h2.RequestReceived(3, GET, True)


STREAM_BREACHES: dict[str, tuple[bytes, ErrorCode]] = {
    "body longer than its length": (
        headers_frame(1, (*POST, ("content-length", "3"))) + data(1, b"abcd"),
        PROTOCOL,
    ),
    "body shorter than its length": (
        headers_frame(1, (*POST, ("content-length", "3"))) + data(1, b"ab", END_STREAM),
        PROTOCOL,
    ),
    "no body despite its length": (
        headers_frame(1, (*POST, ("content-length", "3")), END_HEADERS | END_STREAM),
        PROTOCOL,
    ),
    "data after the end": (headers_frame(1, POST, END_HEADERS | END_STREAM) + data(1, b"x"), CLOSED),
    "headers after the end": (BARE_GET + headers_frame(1, (("a", "b"),), END_HEADERS | END_STREAM), CLOSED),
    "trailers that do not end": (OPEN_POST + headers_frame(1, (("a", "b"),)), PROTOCOL),
    "pseudo-header in trailers": (OPEN_POST + headers_frame(1, OK, END_HEADERS | END_STREAM), PROTOCOL),
    "window update by nothing": (OPEN_POST + window_update(1, 0), PROTOCOL),
    "window update beyond the limit": (OPEN_POST + window_update(1, 2**31 - 1), FLOW),
}


@requirement("wire:h2:stream-errors")
@pytest.mark.parametrize("name", STREAM_BREACHES)
def test_a_breach_that_ends_one_stream(name: str) -> None:
    breach, code = STREAM_BREACHES[name]
    server = server_fed(breach)
    assert server.events_received()[-1] == h2.StreamReset(1, code, by_peer=False)
    assert (FrameType.RST_STREAM, 0, 1, struct.pack(">I", code)) in frames_of(server.data_to_send())
    assert server.open_streams == 0
    server.receive_data(headers_frame(3, GET, END_HEADERS | END_STREAM))
    assert server.events_received()[0] == h2.RequestReceived(3, GET, True)


ANSWER_BREACHES: dict[str, bytes] = {
    "data before the head": data(1, b"x"),
    "no status": headers_frame(1, (("a", "b"),)),
    "status that is no number": headers_frame(1, ((":status", "2x0"),)),
    "status 101": headers_frame(1, ((":status", "101"),)),
    "method in an answer": headers_frame(1, (*OK, (":method", "GET"))),
    "informational that ends": headers_frame(1, ((":status", "103"),), END_HEADERS | END_STREAM),
    "body on 204": headers_frame(1, ((":status", "204"),)) + data(1, b"x"),
}


@requirement("wire:h2:stream-errors")
@pytest.mark.parametrize("name", ANSWER_BREACHES)
def test_a_malformed_answer_ends_its_stream(name: str) -> None:
    client = client_fed(ANSWER_BREACHES[name])
    assert client.events_received()[-1] == h2.StreamReset(1, PROTOCOL, by_peer=False)


@requirement("wire:h2:late")
def test_frames_on_closed_streams_are_ignored() -> None:
    server = server_fed(OPEN_POST + rst_stream(1, 8))
    server.events_received()
    server.receive_data(data(1, b"x") + window_update(1, 5) + rst_stream(1, 8))
    server.receive_data(headers_frame(1, (("a", "b"),), END_HEADERS | END_STREAM))
    assert server.events_received() == []


@requirement("wire:h2:late")
def test_a_head_answer_may_promise_a_length_without_a_body() -> None:
    client = HTTP2Connection(True)
    stream = client.open_stream(((":method", "HEAD"), *GET[1:]), end_stream=True)
    client.receive_data(settings_frame() + headers_frame(stream, (*OK, ("content-length", "5")), 5))
    assert client.events_received()[-1] == h2.StreamClosed(stream)


@requirement("wire:h2:padding")
def test_padding_is_stripped_and_credited() -> None:
    server = server_fed(OPEN_POST + data(1, b"\x03abc\0\0\0", PADDED))
    assert server.events_received()[-1] == h2.DataReceived(1, b"abc")
    padded = frame(
        FrameType.HEADERS, END_HEADERS | PADDED | PRIORITY_FLAG, 3, b"\x02" + bytes(5) + block(GET) + b"\0\0"
    )
    server.receive_data(padded)
    assert server.events_received() == [h2.RequestReceived(3, GET, False)]


def rapid_resets() -> bytes:
    return b"".join(headers_frame(n, GET) + rst_stream(n, 8) for n in range(1, 2 * 1_200, 2))


FLOODS: dict[str, bytes] = {
    "settings": settings_frame() * 200,
    "pings": frame(FrameType.PING, 0, 0, bytes(8)) * 1_200,
    "empty data": OPEN_POST + data(1, b"") * 1_200,
    "priorities": frame(FrameType.PRIORITY, 0, 1, bytes(5)) * 2_200,
    "unknown frames": (b"\0\0\0\x2a" + bytes(5)) * 1_200,
    "rapid resets": rapid_resets(),
    "malformed requests": b"".join(headers_frame(n, without(":path")) for n in range(1, 2 * 250, 2)),
    "refused streams": b"".join(headers_frame(n, GET) for n in range(1, 2 * 1_300, 2)),
    "goaways": goaway(0, 0) * 200,
}


@requirement("wire:h2:floods")
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection(name: str) -> None:
    with pytest.raises(HTTP2Error, match="too many") as caught:
        server_fed(FLOODS[name])
    assert caught.value.error_code == CALM


@requirement("wire:h2:floods")
def test_the_same_spread_over_time_is_forgiven() -> None:
    server = server_fed(b"")
    for _ in range(20):
        server.receive_data(frame(FrameType.PING, 0, 0, bytes(8)) * 500)
        server.forgive()
    assert len(server.data_to_send()) == 20 * 500 * 17


@requirement("wire:h2:floods")
def test_cancelling_answered_requests_is_no_flood() -> None:
    server = server_fed(b"", Settings(max_concurrent_streams=10))
    for number in range(1, 2 * 3_000, 2):
        server.receive_data(headers_frame(number, GET))
        server.send_headers(number, OK)
        server.receive_data(rst_stream(number, 8))
    assert server.open_streams == 0
