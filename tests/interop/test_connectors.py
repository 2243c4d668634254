"""What passes through a connector, the same for a stock cloudflared and for ours, over every protocol each speaks."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketClient
from qanat.tunnel.connection import StreamReset
from tests.interop.conftest import CONNECTORS, Wire
from tests.support.loopback_edge import TIMEOUT
from tests.support.requirements import requirement
from tests.support.tunnel import Client, http_request, websocket_request
from tests.support.upstream_server import Deaf, Echo

pytestmark = pytest.mark.parametrize(("connector", "protocol"), CONNECTORS)
PLAIN = (("Accept-Encoding", "identity"),)


class Pump(Receiver):
    """Writes a pattern of `size` bytes as fast as it may, and hashes what comes back."""

    transport: Transport

    def __init__(self, size: int) -> None:
        self._left, self.missing = size, size
        self._chunk = bytes(range(256)) * 128
        self._paused = False
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.done = asyncio.Event()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._pump()

    def _pump(self) -> None:
        for _ in range(8):  # then let others have the loop
            if self._paused or not self._left:
                return
            piece = self._chunk[: self._left]
            self._left -= len(piece)
            self.sent.update(piece)
            self.transport.write(piece)
        asyncio.get_running_loop().call_soon(self._pump)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self.received.update(data)
        self.missing -= len(data)
        if self.missing <= 0:
            self.done.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()


async def open_pump(wire: Wire, size: int) -> Pump:
    """An echoing WebSocket through the tunnel, with a pump at work on it."""
    client = wire.open(websocket_request("/socket"))
    assert (await client.answer()).status == 101
    pump = Pump(size)
    layer = WebSocketClient(pump)
    client.transport.set_protocol(layer)
    layer.connection_made(client.transport)
    return pump


@requirement("connector:interop")
async def test_a_get_arrives_whole_and_its_answer_too(wire: Wire) -> None:
    headers = (("Accept", "text/plain"), ("X-Two", "1"), ("Accept-Encoding", "identity"))
    client = wire.open(http_request("GET", "/path?query=1&b=%20", headers))
    head = await client.answer()
    assert (head.status, head.from_upstream) == (200, True)
    assert {name.lower(): value for name, value in head.headers}["content-type"] == "text/plain"
    assert await client.receive(1000) == b"GET /path?query=1&b=%20"
    assert await client.ended() is None
    method, target, sent, body = wire.upstream.requests[-1]
    assert (method, target, body) == ("GET", "/path?query=1&b=%20", b"")
    assert sent["host"] == "app.example"
    assert sent["accept"] == "text/plain"
    assert sent["cf-warp-tag-id"] == str(wire.connections[0].request.connector.connector_id)
    assert not [name for name in sent if name.startswith("cf-cloudflared")]


async def test_a_post_with_a_length_is_echoed(wire: Wire) -> None:
    body = b"0123456789" * 10_000
    client = wire.open(http_request("POST", "/echo", (*PLAIN, ("Content-Length", str(len(body)))), has_body=True))
    client.transport.write(body)
    client.transport.write_eof()
    assert (await client.answer()).status == 200
    assert await client.receive(len(body)) == body
    assert await client.ended() is None
    assert wire.upstream.requests[-1][2]["content-length"] == str(len(body))


async def test_a_post_of_unknown_length_travels_in_chunks(wire: Wire) -> None:
    client = wire.open(http_request("POST", "/echo", PLAIN, has_body=True))
    client.transport.write(b"first ")
    client.transport.write(b"second")
    client.transport.write_eof()
    assert (await client.answer()).status == 200
    assert await client.receive(12) == b"first second"
    assert wire.upstream.requests[-1][2]["transfer-encoding"] == "chunked"


async def test_status_and_repeated_headers_pass_unchanged(wire: Wire) -> None:
    client = wire.open(http_request("GET", "/teapot", PLAIN))
    head = await client.answer()
    assert head.status == 418
    assert [value for name, value in head.headers if name.lower() == "x-pot"] == ["tea", "more"]
    assert [value for name, value in head.headers if name.lower() == "set-cookie"] == ["a=1", "b=2"]
    assert await client.receive(100) == b"short and stout"


async def test_an_answer_to_head_has_no_body(wire: Wire) -> None:
    client = wire.open(http_request("HEAD", "/", PLAIN))
    assert (await client.answer()).status == 200
    assert await client.receive(10) == b""
    assert await client.ended() is None


async def test_a_chunked_answer_loses_its_framing_and_keeps_its_trailers_where_it_can(
    wire: Wire, protocol: str
) -> None:
    client = wire.open(http_request("GET", "/chunks", PLAIN))
    assert (await client.answer()).status == 200
    assert await client.receive(100) == b"abcdefg"
    assert await client.ended() is None
    trailers = {name.lower(): value for name, value in client.trailers}
    assert trailers == ({} if protocol == "quic" else {"x-sum": "7"})


async def test_each_server_sent_event_arrives_before_the_next_is_sent(wire: Wire) -> None:
    client = wire.open(http_request("GET", "/events", (*PLAIN, ("Accept", "text/event-stream"))))
    for number in range(5):
        event = b"data: %d\n\n" % number
        wire.upstream.events.put_nowait(event)
        assert await client.receive(len(event)) == event
    wire.upstream.events.put_nowait(None)
    assert await client.ended() is None


async def test_a_body_cut_short_resets_the_stream(wire: Wire) -> None:
    client = wire.open(http_request("GET", "/broken", PLAIN))
    assert isinstance(await client.ended(), StreamReset)


async def test_an_upstream_that_hangs_up_is_a_502_of_the_connectors_own(wire: Wire) -> None:
    client = wire.open(http_request("GET", "/silent", PLAIN))
    head = await client.answer()
    assert (head.status, head.from_upstream) == (502, False)


@pytest.mark.parametrize(
    "size", [1024, 1024 * 1024, pytest.param(64 * 1024 * 1024, marks=[pytest.mark.slow, pytest.mark.timeout(240)])]
)
async def test_a_websocket_echoes_every_byte(wire: Wire, size: int) -> None:
    pump = await open_pump(wire, size)
    async with asyncio.timeout(200):
        await pump.done.wait()
    assert pump.missing == 0
    assert pump.received.digest() == pump.sent.digest()
    pump.transport.close()


async def test_a_refused_websocket_keeps_its_status(wire: Wire) -> None:
    client = wire.open(websocket_request("/refused"))
    head = await client.answer()
    assert (head.status, head.from_upstream) == (403, True)
    assert await client.receive(100) == b"no sockets here"


@pytest.mark.slow
async def test_a_hundred_streams_at_once_keep_apart(wire: Wire) -> None:
    clients = [wire.open(http_request("GET", f"/number/{number}", PLAIN)) for number in range(100)]
    pumps = await asyncio.gather(*(open_pump(wire, 10_000) for _ in range(100)))
    for number, client in enumerate(clients):
        assert await client.receive(1000) == f"GET /number/{number}".encode()
    for pump in pumps:
        async with asyncio.timeout(TIMEOUT):
            await pump.done.wait()
        assert pump.received.digest() == pump.sent.digest()
        pump.transport.close()


@requirement("connector:stalled")
@pytest.mark.slow
async def test_a_reader_that_stalls_does_not_stop_the_others(wire: Wire) -> None:
    wire.upstream.websocket = Deaf
    stalled = await open_pump(wire, 8 * 1024 * 1024)
    wire.upstream.websocket = Echo
    pumps = await asyncio.gather(*(open_pump(wire, 200_000) for _ in range(50)))
    for pump in pumps:
        async with asyncio.timeout(TIMEOUT):
            await pump.done.wait()
        assert pump.missing == 0
        pump.transport.close()
    assert stalled.missing
    stalled.transport.abort()


@pytest.mark.slow
async def test_four_of_four_connections_register_and_each_carries_streams(four_wires: Wire, protocol: str) -> None:
    requests = [connection.request for connection in four_wires.connections]
    assert [request.conn_index for request in requests] == [0, 1, 2, 3]
    assert len({request.connector.connector_id for request in requests}) == 1
    assert {request.connector.protocol for request in requests} == {protocol}
    for index in range(4):
        client: Client = four_wires.open(http_request("GET", f"/{index}", PLAIN), index)
        assert await client.receive(100) == f"GET /{index}".encode()
