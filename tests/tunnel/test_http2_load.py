"""Peers that stall, go silent or flood the tunnel over HTTP/2: the others go on, and memory is bounded."""

from __future__ import annotations

import asyncio
import sys

import pytest

from qanat.net.memory import memory_pair
from qanat.tunnel import http2_link
from qanat.tunnel.connection import (
    ConnectionLost,
    ConnectionUnavailable,
    RequestHead,
)
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeStream
from qanat.tunnel.http2_link import KeepAlive
from qanat.wire import cloudflared_headers as marks
from qanat.wire.http2 import ErrorCode, HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.http2.frames import window_update
from tests.support.http2 import OK
from tests.support.http2_peer import Peer, connector_by_hand, like_cloudflared
from tests.support.requirements import requirement
from tests.support.tunnel import (
    ACCEPTED,
    TIMEOUT,
    Admission,
    Client,
    Upstream,
    Upstreams,
    http_request,
    websocket_request,
)


@requirement("tunnel:http2:stalled")
async def test_a_stalled_websocket_does_not_slow_fifty_others() -> None:
    """On a connector like cloudflared: a connection window of 1 MB, credit only for what its local side has taken."""

    def upstream(head: RequestHead) -> Upstream:
        return Upstream(ACCEPTED, reading=head.path != "/stalled")

    async with like_cloudflared(Upstreams(upstream)) as connection:
        stalled = connection.open(websocket_request("/stalled"))
        await stalled.answer()
        while stalled.may_write.is_set():
            stalled.transport.write(bytes(65536))
        others = [connection.open(websocket_request()) for _ in range(50)]
        for client in others:
            await client.answer()
        held = stalled.transport.get_write_buffer_size()
        assert 0 < held <= 512 * 1024  # memory is bounded
        for _ in range(10):
            for client in others:
                client.transport.write(b"z" * 30_000)
            for client in others:
                assert await client.receive(30_000) == b"z" * 30_000
        assert stalled.transport.get_write_buffer_size() == held  # stalled still: the others passed it by
        assert connection.edge.available_streams > 0
        while (upstream_end := await connection.upstreams.opened.get())._reading:
            continue
        upstream_end.stream.resume_reading()
        async with asyncio.timeout(TIMEOUT):
            await stalled.may_write.wait()


@requirement("tunnel:http2:crowded")
async def test_stalled_readers_that_hold_the_whole_window_are_given_up_for_the_others() -> None:
    narrow = Settings(initial_window=65_535, connection_window=131_070)

    def upstream(head: RequestHead) -> Upstream:
        return Upstream(ACCEPTED, reading=head.path != "/stalled")

    async with like_cloudflared(Upstreams(upstream), narrow, KeepAlive(0.02, 20.0)) as connection:
        stalled = [connection.open(websocket_request("/stalled")) for _ in range(2)]
        for client in stalled:
            await client.answer()
            client.transport.write(bytes(65_535))
        other = connection.open(websocket_request())
        await other.answer()
        other.transport.write(b"z" * 30_000)
        assert await other.receive(30_000) == b"z" * 30_000
        assert sum(client.lost.done() for client in stalled) == 1


@requirement("tunnel:http2:limit")
async def test_the_connectors_stream_limit_is_honoured() -> None:
    edge, peer = await connector_by_hand(Admission(), Settings(max_concurrent_streams=3))
    assert edge.available_streams == 2  # the control stream counts
    for _ in range(2):
        edge.open_stream(http_request(), Client())
    with pytest.raises(ConnectionUnavailable):
        edge.open_stream(http_request(), Client())
    edge.close()
    await edge.wait_closed()
    assert peer.codec.open_streams == 3


@requirement("tunnel:silence")
async def test_a_peer_that_goes_silent_is_dropped_by_the_edge() -> None:
    admission = Admission()
    edge, peer = await connector_by_hand(admission, keep_alive=KeepAlive(0.02, 0.1))
    client = Client()
    edge.open_stream(http_request(), client)
    peer.answers = False
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
        assert await client.lost is not None
    assert admission.told == ["ready", "lost"]


@requirement("tunnel:silence")
async def test_a_peer_that_goes_silent_is_dropped_by_the_connector() -> None:
    connector = ConnectorHTTP2(Upstreams(), keep_alive=KeepAlive(0.02, 0.1))
    peer = Peer(HTTP2Connection(True))
    memory_pair(connector, peer)
    peer.answers = False
    async with asyncio.timeout(TIMEOUT):
        assert isinstance(await connector.wait_closed(), ConnectionLost)


@requirement("tunnel:silence")
async def test_a_quiet_peer_that_answers_pings_is_kept() -> None:
    edge, peer = await connector_by_hand(Admission(), keep_alive=KeepAlive(0.01, 0.4))
    async with asyncio.timeout(TIMEOUT):
        await peer.pinged(80)  # twice as long as silence would have been borne
    assert edge.available_streams > 0
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:silence")
async def test_a_peer_that_stops_reading_is_dropped_though_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_link, "HELD_TOO_LONG", 0.02)
    edge, peer = await connector_by_hand(Admission(), keep_alive=KeepAlive(0.02, 20.0))
    client = Client()
    edge.open_stream(http_request("POST", has_body=True), client)
    peer.answers = False
    peer.transport.write(window_update(0, 2**30) + window_update(3, 2**30))
    peer.transport.pause_reading()
    while client.may_write.is_set():
        client.transport.write(bytes(65536))
        await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
    assert isinstance(await client.ended(), ConnectionLost)


@requirement("tunnel:carriers")
async def test_tiny_frames_for_a_paused_reader_take_no_more_room_than_their_bytes() -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    stream = edge.open_stream(websocket_request(), client)
    stream.pause_reading()
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.send_headers(request.stream_id, (*OK, (marks.RESPONSE_META, marks.ORIGIN_META)))
    for _ in range(5_000):
        peer.codec.send_data(request.stream_id, b"x")
    peer.flush()
    await client.answer()
    assert isinstance(stream, EdgeStream)
    assert len(stream._unread) == 5_000
    assert sys.getsizeof(stream._unread) < 10_000
    stream.resume_reading()
    assert await client.receive(5_000) == b"x" * 5_000
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:close")
async def test_a_close_does_not_wait_for_a_peer_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_link, "CLOSE_TIMEOUT", 0.02)
    edge, peer = await connector_by_hand(Admission())
    peer.transport.pause_reading()
    client = Client()
    stream = edge.open_stream(http_request("POST", has_body=True), client)
    stream.write(bytes(10_000))
    await asyncio.sleep(0)
    edge.close()
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
    assert isinstance(await client.ended(), ConnectionLost)


@requirement("tunnel:close")
async def test_a_stream_that_we_ended_does_not_linger_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_link, "LINGER", 0.02)
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(websocket_request(), client).close()
    assert await peer.hear(h2.StreamEnded) == h2.StreamEnded(3)
    assert await client.ended() is None
    assert await peer.hear(h2.StreamReset) == h2.StreamReset(3, ErrorCode.CANCEL)  # it was not ended there
    assert edge.open_streams == 0
    edge.close()
    await edge.wait_closed()
