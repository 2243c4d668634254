"""What a tunnel connection does, whatever carries it."""

from __future__ import annotations

import asyncio

import pytest

from qanat.errors import QanatError
from qanat.tunnel.connection import ConnectionUnavailable, RegistrationRefused, RequestHead, ResponseHead, StreamKind
from tests.support.requirements import requirement
from tests.support.tunnel import (
    ACCEPTED,
    CARRIERS,
    TIMEOUT,
    Admission,
    Client,
    Tunnel,
    Upstream,
    Upstreams,
    http_request,
    registration,
    tunnel,
    websocket_request,
)


@requirement("tunnel:carriers")
async def test_the_registrar_sees_what_the_connector_said(connection: Tunnel) -> None:
    request, asked = connection.edge.request, registration()
    assert (request.account_tag, request.tunnel_uuid, request.secret) == ("account", asked.tunnel_uuid, asked.secret)
    assert request.connector.features == asked.connector.features
    assert request.connector.connector_id == asked.connector.connector_id
    assert connection.edge.registered.location == "test-edge"


@requirement("tunnel:carriers")
async def test_a_wrong_secret_is_refused_with_the_cause_and_closed(carrier: str) -> None:
    admission = Admission()
    async with asyncio.timeout(TIMEOUT), CARRIERS[carrier](admission, Upstreams()) as connector:
        with pytest.raises(RegistrationRefused, match="Unauthorized: wrong secret") as refusal:
            await connector.register(registration(secret=b"wrong"))
        assert refusal.value.retry_after == 3.0
        await connector.wait_closed()
    assert admission.told == []


@requirement("tunnel:carriers")
async def test_a_request_without_a_body_gets_its_answer(connection: Tunnel) -> None:
    client = connection.open(http_request("GET", "/a?b=c", (("Accept", "text/plain"), ("Cookie", "a=b"))))
    upstream: Upstream = await connection.upstreams.opened.get()
    upstream.stream.write(b"hello")
    upstream.stream.close()
    assert (await client.answer()).status == 200
    assert await client.receive(100) == b"hello"
    assert await client.ended() is None
    head = connection.upstreams.heads[0]
    assert (head.kind, head.method, head.authority, head.path) == (StreamKind.HTTP, "GET", "app.example", "/a?b=c")
    assert not head.has_body
    assert ("accept", "text/plain") in [(name.lower(), value) for name, value in head.headers]


@requirement("tunnel:carriers")
async def test_a_request_body_arrives_and_ends(connection: Tunnel) -> None:
    head = http_request("POST", headers=(("Content-Length", "10"),), has_body=True)
    client = connection.open(head)
    client.transport.write(b"01234")
    client.transport.write(b"56789")
    client.transport.write_eof()
    assert (await client.answer()).status == 200
    assert await client.receive(10) == b"0123456789"
    assert await client.ended() is None
    assert connection.upstreams.heads[0].has_body


@requirement("tunnel:carriers")
async def test_the_upstreams_headers_arrive_in_order_and_unchanged(carrier: str) -> None:
    headers = (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Text", "caf\xe9 : ; =,"), ("X-Empty", ""))
    async with tunnel(carrier, Upstreams(lambda head: Upstream(ResponseHead(207, headers)))) as connection:
        answer = await connection.open(http_request()).answer()
        assert answer.status == 207
        assert answer.from_upstream
        assert [field for field in answer.headers if field[0] == "Set-Cookie"] == list(headers[:2])
        assert set(headers) <= set(answer.headers)


@requirement("tunnel:carriers")
async def test_an_answer_of_the_connectors_own_says_so(carrier: str) -> None:
    failed = ResponseHead(502, from_upstream=False)
    async with tunnel(carrier, Upstreams(lambda head: Upstream(failed))) as connection:
        answer = await connection.open(http_request()).answer()
        assert (answer.status, answer.from_upstream) == (502, False)


@requirement("tunnel:carriers")
async def test_an_accepted_websocket_echoes_both_ways(connection: Tunnel) -> None:
    client, _ = await connection.open_websocket()
    for size in (1, 1024, 100_000):
        client.transport.write(b"x" * size)
        assert await client.receive(size) == b"x" * size


@requirement("tunnel:carriers")
async def test_a_megabyte_of_websocket_arrives_byte_for_byte(connection: Tunnel) -> None:
    payload = bytes(range(256)) * 4096
    client, _ = await connection.open_websocket()
    client.transport.write(payload)
    assert await client.receive(len(payload)) == payload


@requirement("tunnel:carriers")
async def test_a_refused_websocket_is_not_101(carrier: str) -> None:
    async with tunnel(carrier, Upstreams(lambda head: Upstream(ResponseHead(403)))) as connection:
        assert (await connection.open(websocket_request()).answer()).status == 403


@requirement("tunnel:carriers")
async def test_the_end_of_a_websocket_at_one_end_ends_both(connection: Tunnel) -> None:
    client, upstream = await connection.open_websocket()
    upstream.stream.write(b"last words")
    upstream.stream.close()
    assert await client.receive(10) == b"last words"
    assert await client.ended() is None
    client, upstream = await connection.open_websocket()
    client.transport.write(b"bye")
    client.transport.close()
    async with asyncio.timeout(TIMEOUT):
        assert await upstream.lost is None
    assert upstream.received == b"bye"


@requirement("tunnel:carriers")
async def test_tcp_streams_carry_bytes(connection: Tunnel) -> None:
    client = connection.open(RequestHead(StreamKind.TCP, "CONNECT", "127.0.0.1:22", "/"))
    assert (await client.answer()).status == 200
    client.transport.write(b"ping")
    assert await client.receive(4) == b"ping"
    assert connection.upstreams.heads[0].authority == "127.0.0.1:22"
    assert connection.upstreams.heads[0].kind is StreamKind.TCP


@requirement("tunnel:carriers")
async def test_a_client_that_goes_away_is_heard_upstream(connection: Tunnel) -> None:
    client, upstream = await connection.open_websocket()
    client.transport.abort()
    async with asyncio.timeout(TIMEOUT):
        await upstream.lost
    assert await client.ended() is None


@requirement("tunnel:carriers")
async def test_an_upstream_that_breaks_resets_the_stream(connection: Tunnel) -> None:
    client, upstream = await connection.open_websocket()
    upstream.stream.abort()
    assert isinstance(await client.ended(), QanatError)


@requirement("tunnel:carriers")
async def test_a_reader_that_pauses_stops_the_writer_and_loses_nothing(carrier: str) -> None:
    async with tunnel(carrier) as connection:
        client, upstream = await connection.open_websocket()
        upstream.stream.pause_reading()
        written = 0
        while client.may_write.is_set():
            client.transport.write(b"y" * 65536)
            written += 65536
            assert written < 64 * 1024 * 1024, "nothing ever stops the writer"
            await asyncio.sleep(0)
        upstream.stream.resume_reading()
        async with asyncio.timeout(TIMEOUT):
            await client.may_write.wait()
        assert len(await client.receive(written)) == written


class Hesitant(Upstream):
    """Stops reading at every piece, and goes on a moment later."""

    arrived: asyncio.Event

    async def got(self, size: int) -> None:
        """Return once that many bytes have arrived."""
        while len(self.received) < size:
            self.arrived = asyncio.Event()
            await self.arrived.wait()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.stream.pause_reading()
        asyncio.get_running_loop().call_later(0, self.stream.resume_reading)
        if hasattr(self, "arrived"):
            self.arrived.set()


@requirement("tunnel:carriers")
async def test_a_reader_that_keeps_pausing_still_gets_every_byte_in_order(carrier: str) -> None:
    async with tunnel(carrier, Upstreams(lambda head: Hesitant(ACCEPTED))) as connection:
        client, upstream = await connection.open_websocket()
        assert isinstance(upstream, Hesitant)
        sent = bytearray()
        for number in range(400):
            piece = number.to_bytes(4, "big") * 256
            sent += piece
            client.transport.write(piece)
            await asyncio.sleep(0)
        async with asyncio.timeout(TIMEOUT):
            await upstream.got(len(sent))
        assert upstream.received == sent


@requirement("tunnel:carriers")
async def test_unregistering_lets_streams_end_and_then_closes(connection: Tunnel) -> None:
    client, upstream = await connection.open_websocket()
    async with asyncio.timeout(TIMEOUT):
        await connection.connector.unregister()
    assert connection.edge.available_streams == 0
    with pytest.raises(ConnectionUnavailable):
        connection.edge.open_stream(websocket_request(), Client())
    client.transport.write(b"still here")
    assert await client.receive(10) == b"still here"
    upstream.stream.close()
    async with asyncio.timeout(TIMEOUT):
        await connection.connector.wait_closed()
        await connection.edge.wait_closed()
    assert connection.admission.told == ["ready", "draining", "lost"]


@requirement("tunnel:carriers")
async def test_an_idle_connection_closes_at_once_when_drained(connection: Tunnel) -> None:
    connection.edge.drain()
    async with asyncio.timeout(TIMEOUT):
        await connection.connector.wait_closed()
    assert connection.admission.told[-1] == "lost"


@requirement("tunnel:carriers")
async def test_closing_at_the_edge_ends_every_stream(connection: Tunnel) -> None:
    client, upstream = await connection.open_websocket()
    connection.edge.close()
    async with asyncio.timeout(TIMEOUT):
        assert await client.lost is not None
        assert await upstream.lost is not None
        await connection.edge.wait_closed()
        await connection.connector.wait_closed()


@requirement("tunnel:carriers")
async def test_closing_at_the_connector_ends_every_stream(connection: Tunnel) -> None:
    client, upstream = await connection.open_websocket()
    connection.connector.close()
    async with asyncio.timeout(TIMEOUT):
        assert await client.lost is not None
        assert await upstream.lost is not None
        await connection.edge.wait_closed()
    assert connection.admission.told == ["ready", "lost"]


@requirement("tunnel:carriers")
async def test_streams_are_counted_and_forgotten(connection: Tunnel) -> None:
    opened = [await connection.open_websocket() for _ in range(10)]
    assert connection.edge.open_streams == connection.connector.open_streams == 10
    for client, _ in opened:
        client.transport.close()
    for client, upstream in opened:
        await client.ended()
        async with asyncio.timeout(TIMEOUT):
            await upstream.lost
    for _ in range(1000):
        await asyncio.sleep(0)
    assert connection.edge.open_streams == connection.connector.open_streams == 0
