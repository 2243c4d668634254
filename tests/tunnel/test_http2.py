"""The tunnel over HTTP/2 as its bytes: what only this carrier has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qanat.errors import ProtocolError
from qanat.net.memory import memory_pair
from qanat.net.transport import Receiver, Transport
from qanat.tunnel.connection import (
    RequestHead,
    ResponseHead,
    StreamReset,
)
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeHTTP2
from qanat.tunnel.http2_link import Link
from qanat.wire import cloudflared_headers as marks
from qanat.wire.http2 import ErrorCode, HTTP2Connection
from qanat.wire.http2 import events as h2
from tests.support.http2 import OK
from tests.support.http2_peer import Peer, connector_by_hand
from tests.support.requirements import requirement
from tests.support.tunnel import (
    ACCEPTED,
    TIMEOUT,
    Admission,
    Client,
    Tunnel,
    Upstream,
    Upstreams,
    http_request,
    tunnel,
    websocket_request,
)


@requirement("tunnel:trailers")
async def test_trailers_reach_the_edge(connection: Tunnel) -> None:
    client = connection.open(http_request())
    upstream: Upstream = await connection.upstreams.opened.get()
    upstream.stream.write(b"body")
    upstream.stream.write_trailers((("Grpc-Status", "0"), ("Transfer-Encoding", "x"), ("Cf-Int-A", "b")))
    assert await client.ended() is None
    assert (bytes(client.received), client.trailers) == (b"body", (("grpc-status", "0"),))


@requirement("tunnel:answers")
@pytest.mark.parametrize(
    ("headers", "status", "from_upstream", "limited"),
    [
        ((*OK, (marks.RESPONSE_META, marks.ORIGIN_META)), 200, True, False),
        (((":status", "502"), (marks.RESPONSE_META, marks.CONNECTOR_META)), 502, False, False),
        (((":status", "502"), (marks.RESPONSE_META, marks.RATE_LIMITED_META)), 502, False, True),
        (OK, 200, False, False),
    ],
)
async def test_whose_answer_it_is(headers: h2.Headers, status: int, from_upstream: bool, limited: bool) -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(http_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.send_headers(request.stream_id, headers, end_stream=True)
    peer.flush()
    answer = await client.answer()
    assert (answer.status, answer.from_upstream, answer.rate_limited) == (status, from_upstream, limited)
    assert await client.ended() is None
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:websocket")
@pytest.mark.parametrize("accept", [None, "wrong"])
async def test_a_websocket_answer_without_the_right_accept_header_is_not_accepted(accept: str | None) -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(websocket_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    fields = marks.serialise_headers(() if accept is None else (("Sec-Websocket-Accept", accept),))
    meta = (marks.RESPONSE_META, marks.ORIGIN_META)
    peer.codec.send_headers(request.stream_id, (*OK, meta, (marks.RESPONSE_HEADERS, fields)))
    peer.flush()
    assert (await client.answer()).status == 200
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:answers")
async def test_an_answer_with_broken_headers_ends_its_stream_only() -> None:
    edge, peer = await connector_by_hand(Admission())
    broken, whole = Client(), Client()
    for client in (broken, whole):
        edge.open_stream(http_request(), client)
    first, second = [await peer.hear(h2.RequestReceived) for _ in range(2)]
    assert isinstance(first, h2.RequestReceived)
    assert isinstance(second, h2.RequestReceived)
    meta = (marks.RESPONSE_META, marks.ORIGIN_META)
    peer.codec.send_headers(first.stream_id, (*OK, meta, (marks.RESPONSE_HEADERS, "???")))
    peer.codec.send_headers(second.stream_id, (*OK, meta), end_stream=True)
    peer.flush()
    assert isinstance(await broken.ended(), ProtocolError)
    assert (await whole.answer()).status == 200
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:reset")
async def test_a_reset_before_any_answer_is_told_with_its_code() -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(http_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.reset_stream(request.stream_id, ErrorCode.INTERNAL_ERROR)
    peer.flush()
    error = await client.ended()
    assert isinstance(error, StreamReset)
    assert error.error_code == ErrorCode.INTERNAL_ERROR
    assert not client.head.done()
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:reset")
async def test_an_upstream_that_never_answers_but_closes_is_a_reset() -> None:
    class Mute(Receiver):
        def connection_made(self, transport: Transport) -> None:
            transport.close()

    async with tunnel("http2", Upstreams(lambda head: Mute())) as connection:
        error = await connection.open(http_request()).ended()
        assert isinstance(error, StreamReset)
        assert error.error_code == ErrorCode.INTERNAL_ERROR


@requirement("tunnel:bugs")
async def test_a_bug_in_one_streams_protocol_ends_that_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Upstream):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    def make(head: RequestHead) -> Upstream:
        return (Broken if head.path == "/broken" else Upstream)(ACCEPTED)

    async with tunnel("http2", Upstreams(make)) as connection:
        broken, whole = connection.open(websocket_request("/broken")), connection.open(websocket_request())
        await broken.answer()
        await whole.answer()
        broken.transport.write(b"x")
        assert isinstance(await broken.ended(), StreamReset)
        whole.transport.write(b"still here")
        assert await whole.receive(10) == b"still here"
    assert "a bug" in caplog.text


@requirement("tunnel:http2:garbage")
async def test_a_peer_that_speaks_no_http2_is_dropped() -> None:
    for end in (EdgeHTTP2(Admission()), ConnectorHTTP2(Upstreams())):
        peer = Peer(HTTP2Connection(False), answer_pings=False)
        memory_pair(peer, end)
        peer.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        async with asyncio.timeout(TIMEOUT):
            await peer.lost
            assert isinstance(await Link.wait_lost(end), ProtocolError)


@requirement("tunnel:http2:goaway")
async def test_a_connector_that_goes_away_gets_no_new_streams() -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(http_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.go_away()
    peer.codec.send_headers(request.stream_id, (*OK, (marks.RESPONSE_META, marks.ORIGIN_META)), end_stream=True)
    peer.flush()
    assert await client.ended() is None
    assert edge.available_streams == 0
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()  # drained: only a closed connection makes a stock connector reconnect


@requirement("tunnel:client-gone")
async def test_a_client_that_leaves_before_the_answer_cancels_the_request(connection: Tunnel) -> None:
    client = connection.open(http_request())
    upstream: Upstream = await connection.upstreams.opened.get()
    client.transport.close()
    async with asyncio.timeout(TIMEOUT):
        assert isinstance(await upstream.lost, StreamReset)


async def test_an_answer_before_the_end_of_the_request_stops_the_request() -> None:
    upstreams = Upstreams(lambda head: Upstream(ResponseHead(413), echo=False))
    async with tunnel("http2", upstreams) as connection:
        client = connection.open(http_request("POST", has_body=True))
        upstream: Upstream = await upstreams.opened.get()
        upstream.stream.close()
        assert (await client.answer()).status == 413
        assert await client.ended() is None
        for _ in range(100):
            await asyncio.sleep(0)
        assert connection.edge.open_streams == connection.connector.open_streams == 0


@pytest.fixture
async def connection() -> AsyncIterator[Tunnel]:
    async with tunnel("http2") as opened:
        yield opened
