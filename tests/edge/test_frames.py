"""Following frames by their lengths alone."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from qanat.edge.frames import FrameTracker, close_frame, going_away_frame
from qanat.net.websocket import GOING_AWAY_NOTICE
from qanat.wire.websocket import CloseReceived, PingReceived, WebSocketCodec


def _frames(sizes: list[int], masked: bool) -> bytes:
    codec = WebSocketCodec((lambda: os.urandom(4)) if masked else None)
    for size in sizes:
        codec.send_payload(bytes(size))
    return codec.data_to_send()


SIZES = st.lists(st.sampled_from([1, 2, 125, 126, 127, 300, 65_535, 65_536, 70_000]), min_size=1, max_size=4)


@given(sizes=SIZES, masked=st.booleans(), cuts=st.lists(st.integers(1, 5_000), max_size=30))
def test_a_boundary_is_found_however_the_bytes_are_cut(sizes: list[int], masked: bool, cuts: list[int]) -> None:
    data, tracker = _frames(sizes, masked), FrameTracker()
    for cut in cuts:
        tracker.feed(data[:cut])
        data = data[cut:]
    tracker.feed(data)
    boundaries = [tracker.at_boundary]
    for piece in (b"\x82", b"\x05four", b"!"):
        tracker.feed(piece)
        boundaries.append(tracker.at_boundary)
    assert boundaries == [True, False, False, True]
    assert not tracker.closed


def test_a_close_frame_is_noticed() -> None:
    tracker = FrameTracker()
    tracker.feed(close_frame(1000, ""))
    assert tracker.closed
    assert tracker.at_boundary


def test_our_own_frames_are_what_a_client_reads() -> None:
    client = WebSocketCodec(lambda: bytes(4))
    client.receive_data(going_away_frame() + close_frame(1013, "edge_draining at edge"))
    assert client.events_received() == [PingReceived(GOING_AWAY_NOTICE), CloseReceived(1013, "edge_draining at edge")]
