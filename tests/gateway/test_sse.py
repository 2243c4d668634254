"""The event stream reader: the same events however the bytes are cut, and nothing without limit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import ProtocolError
from qanat.gateway.sse import EventStreamReader, ServerSentEvent

STREAM = ": hello\r\n\r\nevent: a\ndata: één\rdata:two\r\n\r\rdata: {}\n\n".encode()
EVENTS = [ServerSentEvent("a", "één\ntwo"), ServerSentEvent("", "{}")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = EventStreamReader()
    for start, end in pairwise(edges):
        reader.receive_data(STREAM[start:end])
    assert list(reader.events_received()) == EVENTS


def test_a_long_line_in_many_pieces_is_joined_once() -> None:
    reader = EventStreamReader()
    reader.receive_data(b"data: ")
    for _ in range(200_000):  # joined anew with each piece, 16 MB held the gateway for minutes
        reader.receive_data(b"a" * 80)
    reader.receive_data(b"\n\n")
    assert list(reader.events_received()) == [ServerSentEvent("", "a" * 16_000_000)]


@pytest.mark.parametrize("endless", [b"data:\n", b"data: a\n", b"a"])
def test_an_event_without_end_is_refused(endless: bytes) -> None:
    reader = EventStreamReader(max_event=1000)
    for _ in range(100):
        reader.receive_data(endless)
    with pytest.raises(ProtocolError, match="larger than"):
        reader.receive_data(endless * 1000)
