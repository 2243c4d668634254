"""WebSocket frames as RFC 6455 writes them, cut anywhere, and every way to break the rules."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.wire.errors import WebSocketViolation
from qanat.wire.websocket import (
    MAX_FRAME,
    CloseReceived,
    PayloadReceived,
    PingReceived,
    PongReceived,
    WebSocketCodec,
    WebSocketEvent,
    accept_key,
)
from tests.support.chunks import cut, exchange, feed, survives

MASK = bytes.fromhex("37fa213d")


def client() -> WebSocketCodec:
    return WebSocketCodec(lambda: MASK)


def payload(events: list[WebSocketEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, PayloadReceived))


def frame(first: int, data: bytes = b"", mask: bytes = MASK) -> bytes:
    """A frame of less than 126 bytes as a client sends it."""
    return bytes((first, 0x80 | len(data))) + mask + masked(data, mask)


def masked(data: bytes, key: bytes) -> bytes:
    """As RFC 6455 section 5.3 puts it."""
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


def test_the_key_of_the_rfc_gets_the_answer_of_the_rfc() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # section 1.3


def test_the_masked_ping_and_pong_of_the_rfc() -> None:
    server = WebSocketCodec()
    server.receive_data(bytes.fromhex("8985 37fa213d 7f9f4d5158"))  # the masking of section 5.7
    assert server.events_received() == [PingReceived(b"Hello")]
    assert server.data_to_send() == bytes.fromhex("8a05 48656c6c6f")
    asking = client()
    asking.receive_data(bytes.fromhex("8a05 48656c6c6f"))
    assert asking.events_received() == [PongReceived(b"Hello")]


@pytest.mark.parametrize(
    ("size", "header"),
    [(125, "827d"), (126, "827e007e"), (256, "827e0100"), (65535, "827effff"), (65536, "827f0000000000010000")],
)
def test_lengths_are_written_in_their_shortest_form(size: int, header: str) -> None:
    server = WebSocketCodec()
    server.send_payload(bytes(size))
    written = server.data_to_send()
    assert written[: len(header) // 2].hex() == header
    assert len(written) == len(header) // 2 + size


def test_a_large_write_becomes_frames_of_bounded_size() -> None:
    server, reader = WebSocketCodec(), client()
    server.send_payload(bytes(3 * MAX_FRAME + 1))
    written = server.data_to_send()
    assert len(written) == 3 * (10 + MAX_FRAME) + 2 + 1
    reader.receive_data(written)
    assert len(payload(reader.events_received())) == 3 * MAX_FRAME + 1


def test_a_fragmented_message_is_one_stream_and_a_ping_may_stand_between() -> None:
    server = WebSocketCodec()
    server.receive_data(frame(0x02, b"Hel") + frame(0x89, b"!") + frame(0x80, b"lo") + frame(0x82, b" again"))
    events = server.events_received()
    assert payload(events) == b"Hello again"
    assert PingReceived(b"!") in events


def test_payload_is_reported_before_its_frame_is_complete() -> None:
    server = WebSocketCodec()
    whole = frame(0x82, b"abcdefgh")
    server.receive_data(whole[:9])
    assert payload(server.events_received()) == b"abc"
    server.receive_data(whole[9:])
    assert payload(server.events_received()) == b"defgh"


def test_a_close_carries_its_code_and_nothing_is_read_after_it() -> None:
    server = WebSocketCodec()
    server.receive_data(frame(0x88, struct.pack("!H", 1001) + b"bye") + frame(0x82, b"ignored"))
    assert server.events_received() == [CloseReceived(1001, "bye")]
    server.receive_data(frame(0x88))
    assert server.events_received() == []
    empty = WebSocketCodec()
    empty.receive_data(frame(0x88))
    assert empty.events_received() == [CloseReceived(1005, "")]


@pytest.mark.parametrize(
    ("data", "close_code"),
    [
        (b"\x82\x01x", 1002),  # not masked by a client
        (frame(0xC2, b"x"), 1002),  # reserved bit
        (frame(0x83, b"x"), 1002),  # unknown opcode
        (frame(0x81, b"x"), 1003),  # text
        (frame(0x80, b"x"), 1002),  # continuation of nothing
        (frame(0x02, b"x") + frame(0x82, b"y"), 1002),  # a message inside a message
        (frame(0x09, b"x"), 1002),  # a control frame in fragments
        (b"\x89\xfe\x00\x7e" + MASK, 1002),  # a control frame of 126 bytes
        (frame(0x88, b"x"), 1002),  # half a close code
        (frame(0x88, struct.pack("!H", 1005)), 1002),  # a code that must not be sent
        (frame(0x88, struct.pack("!H", 999)), 1002),
        (frame(0x88, struct.pack("!H", 1000) + b"\xff"), 1007),  # a reason that is no UTF-8
        (b"\x82\xff\x80" + bytes(7) + MASK, 1002),  # a length with its top bit set
    ],
)
def test_each_broken_rule_is_answered_with_its_code(data: bytes, close_code: int) -> None:
    with pytest.raises(WebSocketViolation) as violation:
        WebSocketCodec().receive_data(data)
    assert violation.value.close_code == close_code


def test_a_client_refuses_masked_frames() -> None:
    with pytest.raises(WebSocketViolation, match="masked by a server"):
        client().receive_data(frame(0x82, b"x"))


@given(st.lists(st.binary(max_size=300), max_size=8), st.binary(min_size=4, max_size=4))
def test_what_is_written_is_read(pieces: list[bytes], key: bytes) -> None:
    writer, reader = WebSocketCodec(lambda: key), WebSocketCodec()
    for piece in pieces:
        writer.send_payload(piece)
    writer.send_close(1000, "done")
    _, events = exchange(writer, reader)
    assert payload(events) == b"".join(pieces)
    assert events[-1] == CloseReceived(1000, "done")


@given(st.lists(st.integers(min_value=0), max_size=20), st.binary(max_size=200))
def test_the_same_is_heard_however_the_bytes_are_cut(cuts: list[int], data: bytes) -> None:
    stream = frame(0x02, data[:100]) + frame(0x89, b"ping") + frame(0x80, data[100:]) + frame(0x88, b"\x03\xe8")
    whole, _ = feed(WebSocketCodec(), [stream])
    pieces, _ = feed(WebSocketCodec(), cut(stream, cuts))
    assert payload(pieces) == payload(whole) == data
    others = [event for event in pieces if not isinstance(event, PayloadReceived)]
    assert others == [event for event in whole if not isinstance(event, PayloadReceived)]


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_garbage_raises_nothing_but_a_protocol_error(chunks: list[bytes]) -> None:
    survives(WebSocketCodec, chunks)
    survives(client, chunks)


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4), st.lists(st.integers(min_value=0), max_size=5))
def test_a_masked_payload_is_unmasked_however_it_is_cut(data: bytes, key: bytes, cuts: list[int]) -> None:
    events, _ = feed(WebSocketCodec(), cut(frame(0x82, data, key), cuts))
    assert payload(events) == data
