"""What the demo says of the edge must be true: TLS records are told from anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.dev.report import summarize
from qanat.dev.wiretap import Chunk, Wiretap, count_records, hexdump
from qanat.wire.websocket import WebSocketCodec

RECORD = bytes.fromhex("1703030003") + b"abc"
HELLO = bytes.fromhex("1603010002") + b"hi"


def tap(up: bytes, down: bytes) -> Wiretap:
    """A wiretap that has heard these byte streams, framed as a client and a server do."""
    found = Wiretap()
    client, server = WebSocketCodec(lambda: b"mask"), WebSocketCodec()
    client.send_payload(up)
    server.send_payload(down)
    found.note(True, client.data_to_send())
    found.note(False, server.data_to_send())
    return found


@pytest.mark.parametrize(
    ("stream", "count"),
    [
        (b"", 0),
        (HELLO, 1),
        (HELLO + RECORD + RECORD, 3),
        (HELLO + RECORD[:6], 2),  # the last one still on its way
        (HELLO + RECORD[:3], 1),
        (b"POST /mcp HTTP/1.1\r\n", None),
        (RECORD + b'{"jsonrpc":"2.0"}', None),
        (b"\x17\x04\x03\x00\x00", None),
    ],
)
def test_tls_records_are_counted_and_anything_else_is_noticed(stream: bytes, count: int | None) -> None:
    assert count_records(stream) == count


@given(st.binary(max_size=100))
def test_no_bytes_break_the_counting(stream: bytes) -> None:
    count_records(stream)


def test_records_are_counted_below_the_websocket_frames_of_both_directions() -> None:
    assert tap(HELLO + RECORD, RECORD).records() == 3


def test_plain_text_in_frames_is_no_tls() -> None:
    assert tap(b"POST /mcp HTTP/1.1\r\n\r\n", RECORD).records() is None


def test_bytes_that_are_no_websocket_are_no_tls_either() -> None:
    found = Wiretap()
    found.note(False, b"HTTP/1.1 200 OK\r\n")
    assert found.records() is None


def test_a_word_is_found_even_below_a_mask() -> None:
    found = tap(b"a secret question", RECORD)
    assert found.readable([b"secret", b"question", b"abc", b"nothing"]) == [b"secret", b"question", b"abc"]


def test_time_beyond_the_edge_runs_from_the_last_bytes_up_to_the_last_ones_down() -> None:
    found = Wiretap()
    for at, up in [(1.0, True), (1.5, True), (2.0, False), (2.5, False), (4.0, True), (4.25, False)]:
        found.chunks.append(Chunk(at, up, b"x"))
    assert found.seconds_beyond() == pytest.approx(1.0 + 0.25)
    assert Wiretap().seconds_beyond() == 0.0


def test_a_hexdump_shows_what_can_be_read_and_a_dot_for_the_rest() -> None:
    assert hexdump(b"\x17\x03\x03AB", lines=1) == ["0000  17 03 03 41 42                                   ...AB"]
    assert len(hexdump(bytes(1000), lines=4)) == 4


def test_equal_lines_are_counted_once() -> None:
    assert summarize(["a", "b", "a"]) == ["a (2x)", "b (1x)"]
    assert summarize([]) == ["nothing"]
