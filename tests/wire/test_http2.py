"""HTTP/2 between two ends of ours: messages, windows, turns, and ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.wire.http2 import ErrorCode, HTTP2Connection, HTTP2Error, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.http2.frames import DEFAULT_WINDOW, END_STREAM, HEADER_SIZE, FrameType, window_update
from qanat.wire.http2.sending import MIN_CAP, TURN
from tests.support.chunks import exchange
from tests.support.http2 import GET, OK, POST, client_fed, frames_of, pair, settings_frame
from tests.support.requirements import requirement

LARGE = Settings(initial_window=1024 * 1024, connection_window=16 * 1024 * 1024)


def received(events: list[h2.Event], stream_id: int) -> bytes:
    return b"".join(e.data for e in events if isinstance(e, h2.DataReceived) and e.stream_id == stream_id)


def opened(client: HTTP2Connection, server: HTTP2Connection, count: int = 1) -> list[int]:
    """Streams with both heads exchanged."""
    ids = [client.open_stream(POST) for _ in range(count)]
    exchange(client, server)
    for stream_id in ids:
        server.send_headers(stream_id, OK)
    exchange(client, server)
    return ids


@requirement("wire:h2:messages")
def test_a_request_and_its_answer() -> None:
    client, server = pair()
    stream = client.open_stream((*GET, ("x-a", "caf\xe9")), end_stream=True)
    _, heard = exchange(client, server)
    assert heard == [h2.RequestReceived(stream, (*GET, ("x-a", "caf\xe9")), True), h2.StreamEnded(stream)]
    server.send_headers(stream, ((":status", "103"), ("link", "</a>")))
    server.send_headers(stream, (*OK, ("content-length", "5")))
    server.send_data(stream, b"hello")
    server.end_stream(stream)
    heard, _ = exchange(client, server)
    assert heard == [
        h2.InformationalReceived(stream, ((":status", "103"), ("link", "</a>"))),
        h2.ResponseReceived(stream, (*OK, ("content-length", "5"))),
        h2.DataReceived(stream, b"hello"),
        h2.StreamEnded(stream),
        h2.StreamClosed(stream),
    ]
    assert client.open_streams == server.open_streams == 0


@requirement("wire:h2:trailers")
@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_trailers_follow_all_the_data(size: int) -> None:
    client, server = pair(client=LARGE)
    [stream] = opened(client, server)
    server.send_data(stream, b"x" * size)
    server.end_stream(stream, (("grpc-status", "0"),))
    heard, _ = exchange(client, server)
    assert len(received(heard, stream)) == size
    assert heard[-2:] == [h2.TrailersReceived(stream, (("grpc-status", "0"),)), h2.StreamEnded(stream)]


@requirement("wire:h2:headers")
def test_a_header_list_larger_than_a_frame_is_continued() -> None:
    client, server = pair()
    big = tuple((f"x-{number}", "v" * 1000) for number in range(40))
    stream = client.open_stream((*GET, *big), end_stream=True)
    data = client.data_to_send()
    assert FrameType.CONTINUATION in [kind for kind, *_ in frames_of(data)]
    server.receive_data(data)
    assert server.events_received()[0] == h2.RequestReceived(stream, (*GET, *big), True)


@requirement("wire:h2:headers")
def test_cookie_crumbs_arrive_as_one_field() -> None:
    client, server = pair()
    client.open_stream((*GET, ("cookie", "a=1"), ("x-a", "b"), ("cookie", "b=2")), end_stream=True)
    _, heard = exchange(client, server)
    assert isinstance(heard[0], h2.RequestReceived)
    assert heard[0].headers == (*GET, ("x-a", "b"), ("cookie", "a=1; b=2"))


@requirement("wire:h2:headers")
def test_secrets_are_never_indexed() -> None:
    client, _ = pair()
    sizes = []
    for _ in range(2):
        client.open_stream((*GET, ("authorization", "Bearer 0123456789abcdef0123456789abcdef")), end_stream=True)
        sizes.append(len(client.data_to_send()))
    assert sizes[1] > 30  # the value travels whole each time


@requirement("wire:h2:windows")
@given(st.integers(0, 300_000), st.integers(1, 70_000))
def test_data_stays_within_the_windows_and_all_of_it_arrives(size: int, step: int) -> None:
    client, server = pair()
    [stream] = opened(client, server)
    client.send_data(stream, b"x" * size)
    arrived = 0
    while arrived < size:
        _, heard = exchange(client, server)
        got = len(received(heard, stream))
        assert 0 < got <= DEFAULT_WINDOW
        arrived += got
        left = got
        while left:  # taken in steps
            server.acknowledge(stream, min(step, left))
            left -= min(step, left)
    assert client.queued(stream) == 0


@requirement("wire:h2:windows")
def test_a_peer_that_ignores_the_window_is_refused() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    server._sender.window = server._streams[stream].send_window = 10**6  # a server that cannot count
    server.send_data(stream, b"x" * 16_384 * 5)
    data = server.data_to_send()
    with pytest.raises(HTTP2Error, match="window exceeded") as caught:
        client.receive_data(data)
    assert caught.value.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert frames_of(client.data_to_send())[-1][0] == FrameType.GOAWAY


@requirement("wire:h2:windows")
def test_a_changed_initial_window_reaches_open_streams() -> None:
    client = client_fed(b"")
    client.send_data(1, b"x" * 100_000)
    client.data_to_send()
    assert client.queued(1) == 100_000 - DEFAULT_WINDOW
    client.receive_data(settings_frame((4, DEFAULT_WINDOW - 10_000)))  # the window is negative now
    client.receive_data(window_update(0, 10**6) + window_update(1, 9_000))
    assert not [kind for kind, *_ in frames_of(client.data_to_send()) if kind == FrameType.DATA]
    client.receive_data(window_update(1, 2_000))
    assert sum(len(payload) for kind, _, _, payload in frames_of(client.data_to_send()) if kind == 0) == 1_000
    client.receive_data(settings_frame((4, 200_000)))
    client.data_to_send()
    assert client.queued(1) == 0


@requirement("wire:h2:windows")
def test_a_window_that_becomes_negative_while_the_stream_waits_for_its_turn_sends_nothing() -> None:
    client = client_fed(settings_frame((4, 10)))
    client.send_data(1, b"x" * 30)
    client.data_to_send()
    client.receive_data(settings_frame((4, 20)) + settings_frame((4, 0)))
    assert not [kind for kind, *_ in frames_of(client.data_to_send()) if kind == FrameType.DATA]
    assert client.queued(1) == 20
    client.receive_data(window_update(1, 30))
    assert [payload for kind, _, _, payload in frames_of(client.data_to_send()) if kind == 0] == [b"x" * 20]


@requirement("wire:h2:windows")
def test_of_a_setting_given_twice_the_last_one_counts() -> None:
    client = client_fed(settings_frame((4, 0), (4, 7)))
    client.send_data(1, b"x" * 30)
    assert [len(payload) for kind, _, _, payload in frames_of(client.data_to_send()) if kind == 0] == [7]


@requirement("wire:h2:credit")
def test_credit_is_given_only_for_what_was_acknowledged() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    client.send_data(stream, b"x" * DEFAULT_WINDOW)
    exchange(client, server)
    assert server.data_to_send() == b""
    server.acknowledge(stream, DEFAULT_WINDOW)
    updates = [(s, int.from_bytes(p, "big")) for k, _, s, p in frames_of(server.data_to_send()) if k == 8]
    assert sorted(updates) == [(0, DEFAULT_WINDOW), (stream, DEFAULT_WINDOW)]


@requirement("wire:h2:credit")
def test_data_of_a_stream_that_is_gone_gives_its_credit_back() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    client.send_data(stream, b"x" * DEFAULT_WINDOW)
    data = client.data_to_send()
    server.reset_stream(stream)
    server.receive_data(data)
    assert not any(isinstance(event, h2.DataReceived) for event in server.events_received())
    assert sum(int.from_bytes(p, "big") for k, _, s, p in frames_of(server.data_to_send()) if k == 8 and s == 0) > 0


@requirement("wire:h2:cap")
def test_the_cap_leaves_a_stalled_stream_a_small_part_of_the_connection_window() -> None:
    client, server = pair(server=Settings(initial_window=1024 * 1024, connection_window=1024 * 1024), capped=True)
    stalled, busy = opened(client, server, 2)
    client.send_data(stalled, b"x" * 2**20)
    _, heard = exchange(client, server)
    assert len(received(heard, stalled)) == MIN_CAP  # and never acknowledged
    sent = 0
    for _ in range(100):
        client.send_data(busy, b"y" * 50_000)
        _, heard = exchange(client, server)
        sent += len(received(heard, busy))
        server.acknowledge(busy, len(received(heard, busy)))
        exchange(client, server)
    assert sent == 100 * 50_000
    server.acknowledge(stalled, MIN_CAP)
    _, heard = exchange(client, server)
    assert len(received(heard, stalled)) == MIN_CAP


@requirement("wire:h2:cap")
def test_a_larger_connection_window_raises_the_cap() -> None:
    client, server = pair(server=LARGE, capped=True)
    [stream] = opened(client, server)
    client.send_data(stream, b"x" * 2**21)
    _, heard = exchange(client, server)
    assert len(received(heard, stream)) == 2**20


@requirement("wire:h2:turns")
def test_queued_streams_take_turns() -> None:
    client, server = pair(server=replace(LARGE, max_frame_size=TURN))
    ids = opened(client, server, 4)
    client.held = True
    for stream in ids:
        client.send_data(stream, b"x" * TURN * 3)
    assert client.data_to_send() == b""
    client.held = False
    written = b"".join(iter(client.data_to_send, b""))
    assert [stream for kind, _, stream, _ in frames_of(written) if kind == FrameType.DATA] == ids * 3


@requirement("wire:h2:turns")
def test_what_is_written_at_once_is_bounded() -> None:
    client, server = pair(server=LARGE)
    [stream] = opened(client, server)
    client.held = True
    client.send_data(stream, b"x" * 2**20)
    client.held = False
    assert len(client.data_to_send()) < 300 * 1024
    assert client.queued(stream) > 0


@requirement("wire:h2:credit")
def test_payload_is_heard_before_its_frame_is_whole_and_credited_after_a_reset() -> None:
    client, server = pair(server=LARGE)
    first, second = opened(client, server, 2)
    client.send_data(first, b"x" * 1000)
    client.send_data(second, b"y" * 5)
    written = client.data_to_send()
    server.receive_data(written[:400])
    [early] = server.events_received()
    assert early == h2.DataReceived(first, b"x" * (400 - HEADER_SIZE))
    server.reset_stream(first)
    server.receive_data(written[400:700])
    server.receive_data(written[700:])
    assert server.events_received() == [h2.DataReceived(second, b"y" * 5)]
    assert server._credit == 1000 - len(early.data)  # the rest was heard by nobody, and counts as taken


@requirement("wire:h2:queue")
def test_many_small_writes_queue_as_few_pieces_and_arrive_in_order() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    client.held = True
    written = bytes(range(256)) * 200
    for byte in written:
        client.send_data(stream, bytes([byte]))
    assert len(client._streams[stream].queue or ()) in range(1, 5)
    client.held = False
    _, heard = exchange(client, server)
    assert received(heard, stream) == written


@requirement("wire:h2:queue")
def test_a_drained_queue_is_reported_once() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    client.send_data(stream, b"x" * 100_000)
    client.notify_below(stream, 20_000)
    events, heard = exchange(client, server)
    assert events == []
    server.acknowledge(stream, len(received(heard, stream)))
    events, _ = exchange(client, server)
    assert events == [h2.QueueDrained(stream)]
    assert client.queued(stream) == 0


@requirement("wire:h2:end")
@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_the_end_travels_with_the_last_data(size: int) -> None:
    client, server = pair(server=LARGE)
    [stream] = opened(client, server)
    client.held = True
    client.send_data(stream, b"x" * size)
    client.end_stream(stream)
    client.send_data(stream, b"too late")
    client.held = False
    frames = [(flags, payload) for kind, flags, _, payload in frames_of(client.data_to_send()) if kind == 0]
    assert sum(len(payload) for _, payload in frames) == size
    assert [flags for flags, _ in frames][-1] == END_STREAM
    assert all(flags == 0 for flags, _ in frames[:-1])


@requirement("wire:h2:end")
def test_a_reset_drops_what_is_queued_and_is_heard() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    client.send_data(stream, b"x" * 200_000)
    exchange(client, server)
    client.reset_stream(stream, ErrorCode.CANCEL)
    assert client.queued(stream) == 0
    _, heard = exchange(client, server)
    assert heard == [h2.StreamReset(stream, ErrorCode.CANCEL)]
    client.send_data(stream, b"x")
    client.end_stream(stream)
    assert client.data_to_send() == b""


@requirement("wire:h2:limits")
def test_streams_beyond_the_limit_are_refused() -> None:
    client, server = pair(server=Settings(max_concurrent_streams=2))
    assert client.peer_max_streams == 2
    ids = [client.open_stream(POST) for _ in range(3)]
    heard, _ = exchange(client, server)
    assert heard == [h2.StreamReset(ids[2], ErrorCode.REFUSED_STREAM)]


@requirement("wire:h2:goaway")
def test_going_away_refuses_new_streams_and_lets_old_ones_end() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    server.go_away(debug=b"bye")
    heard, _ = exchange(client, server)
    assert heard == [h2.GoAwayReceived(stream, ErrorCode.NO_ERROR, b"bye")]
    late = client.open_stream(GET, end_stream=True)
    heard, _ = exchange(client, server)
    assert heard == [h2.StreamReset(late, ErrorCode.REFUSED_STREAM)]
    server.send_data(stream, b"last")
    server.end_stream(stream)
    heard, _ = exchange(client, server)
    assert received(heard, stream) == b"last"


@requirement("wire:h2:goaway")
def test_streams_that_the_peer_will_not_process_are_reset() -> None:
    client, server = pair()
    [stream] = opened(client, server)
    server.go_away()
    late = client.open_stream(GET)
    client.receive_data(server.data_to_send())
    assert client.events_received()[-1] == h2.StreamReset(late, ErrorCode.REFUSED_STREAM)
    assert client.open_streams == 1
    assert stream < late


@requirement("wire:h2:ping")
def test_a_ping_comes_back() -> None:
    client, server = pair()
    client.ping(b"12345678")
    heard, _ = exchange(client, server)
    assert heard == [h2.PingAcknowledged(b"12345678")]


@requirement("wire:h2:settings")
def test_settings_are_those_of_the_peer() -> None:
    client, server = HTTP2Connection(True, LARGE), HTTP2Connection(False, Settings(enable_connect_protocol=True))
    heard, _ = exchange(client, server)
    assert heard == [h2.SettingsReceived()]
    assert client.peer_allows_connect_protocol
    connect = ((":method", "CONNECT"), (":protocol", "websocket"), *GET[1:])
    stream = client.open_stream(connect)
    _, heard = exchange(client, server)
    assert heard == [h2.RequestReceived(stream, connect, False)]


@pytest.mark.parametrize("name", ["initial_window", "connection_window", "max_frame_size"])
@pytest.mark.parametrize("value", [100, 2**31])
def test_settings_out_of_range_are_a_bug(name: str, value: int) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} out of range"):
        Settings(**values)
