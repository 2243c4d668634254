"""What becomes of a stream at the connector's upstream side; the tunnel in between is the one in memory."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from qanat.connector.config import parse_upstream
from qanat.connector.upstream import DIAL_TIMEOUT, UpstreamHandler
from qanat.net.transport import Transport, as_protocol
from qanat.tunnel.connection import RequestHead, StreamKind
from qanat.tunnel.memory import MemoryConnector
from tests.support.jumping_clock import JumpingLoop, run_jumping
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.proxy import until
from tests.support.requirements import requirement
from tests.support.tunnel import Admission, Client, http_request, registration, websocket_request
from tests.support.upstream_server import Echo, upstream_server

CONNECTOR_ID = UUID(int=7)


class Forwarding:
    """A tunnel in memory whose connector forwards to `url`."""

    def __init__(self, url: str) -> None:
        self.unreachable = 0
        self.handler = UpstreamHandler(parse_upstream(url), CONNECTOR_ID, self._count)
        self._admission = Admission()

    def _count(self) -> None:
        self.unreachable += 1

    async def start(self) -> None:
        connector = MemoryConnector(self._admission, self.handler)
        await connector.register(registration())
        self.edge = await self._admission.connections.get()

    def open(self, head: RequestHead) -> Client:
        client = Client()
        self.edge.open_stream(head, client)
        return client


@asynccontextmanager
async def forwarding(url: str) -> AsyncIterator[Forwarding]:
    tunnel = Forwarding(url)
    await tunnel.start()
    try:
        yield tunnel
    finally:
        tunnel.edge.close()
        await tunnel.handler.close()
        await asyncio.sleep(0)


@requirement("connector:unreachable")
async def test_an_upstream_that_is_down_is_a_502_of_our_own_and_counted() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with forwarding(url) as tunnel:
            head = await tunnel.open(http_request()).answer()
            assert (head.status, head.from_upstream) == (502, False)
            assert tunnel.unreachable == 1


@requirement("connector:headers")
async def test_hop_by_hop_and_internal_headers_do_not_reach_the_upstream() -> None:
    headers = (
        ("Connection", "keep-alive, X-Secret"),
        ("Keep-Alive", "5"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("cf-cloudflared-proxy-connection-upgrade", "control-stream"),
        ("Cf-Warp-Tag-Id", "forged"),
        ("Host", "forged.example"),
        ("X-Kept", "yes"),
    )
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        assert (await tunnel.open(http_request(headers=headers)).answer()).status == 200
        _, _, sent, _ = upstream.requests[0]
        assert sent == {
            "host": "app.example",
            "x-kept": "yes",
            "cf-warp-tag-id": str(CONNECTOR_ID),
            "connection": "close",
        }


@requirement("connector:headers")
@pytest.mark.parametrize(
    "head",
    [
        http_request(path="/a b"),
        http_request(path="/\r\nX: y"),
        http_request(method="GE T"),
        http_request(headers=(("X", "a\r\nY: b"),)),
        http_request(headers=(("X\n", "a"),)),
        http_request("POST", headers=(("Content-Length", "1"), ("Content-Length", "2")), has_body=True),
        http_request("POST", headers=(("Content-Length", "-1"),), has_body=True),
    ],
)
async def test_a_head_that_would_break_the_line_is_answered_and_not_forwarded(head: RequestHead) -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        assert (await tunnel.open(head).answer()).status == 502
        assert not upstream.requests


async def test_more_body_than_announced_breaks_the_stream() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        client = tunnel.open(http_request("POST", "/echo", (("Content-Length", "2"),), has_body=True))
        client.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await client.ended() is not None
        assert not upstream.requests


async def test_early_hints_are_skipped_and_an_answer_may_end_with_its_connection() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        client = tunnel.open(http_request(path="/early"))
        assert (await client.answer()).status == 200
        assert await client.receive(100) == b"late"
        client = tunnel.open(http_request(path="/until-close"))
        assert (await client.answer()).status == 200
        assert await client.receive(100) == b"no length"
        assert await client.ended() is None


async def test_an_empty_post_says_that_it_is_empty() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        assert (await tunnel.open(http_request("POST")).answer()).status == 200
        assert upstream.requests[0][2]["content-length"] == "0"


async def test_a_websockets_key_and_protocol_reach_the_upstream_as_they_are() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        request = websocket_request("/socket")
        head = RequestHead(
            StreamKind.WEBSOCKET,
            "GET",
            request.authority,
            "/socket",
            (*request.headers, ("Sec-WebSocket-Protocol", "mcp")),
        )
        client = tunnel.open(head)
        answer = await client.answer()
        assert answer.status == 101
        assert {name.lower() for name, _ in answer.headers} == {
            "upgrade",
            "connection",
            "sec-websocket-accept",
            "sec-websocket-protocol",
        }
        sent = upstream.requests[0][2]
        assert sent["upgrade"] == "websocket"
        assert sent["sec-websocket-version"] == "13"
        assert sent["sec-websocket-protocol"] == "mcp"
        client.transport.close()


async def test_a_client_that_leaves_ends_the_upstreams_socket() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        client = tunnel.open(http_request(path="/events"))
        await client.answer()
        assert upstream.sockets
        client.transport.abort()
        await until(lambda: not upstream.sockets)


async def test_a_client_that_leaves_while_we_dial_leaves_nothing_behind() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        tunnel.open(http_request()).transport.abort()
        await until(lambda: not (tunnel.edge.open_streams or upstream.sockets))


@pytest.mark.parametrize("turn", range(8))
def test_a_request_that_was_sent_is_not_also_answered_with_a_502(turn: int) -> None:
    """The loop stands still at each moment of a dial: either it took too long, or the request is on its way."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
            client = tunnel.open(http_request("POST", "/echo", (("Content-Length", "0"),)))
            for _ in range(turn):
                await asyncio.sleep(0)
            loop.jump(DIAL_TIMEOUT + 1)
            head = await client.answer()
            await client.ended()
            await until(lambda: not upstream.sockets)
            assert (head.status, len(upstream.requests)) in [(200, 1), (502, 0)]
            assert tunnel.unreachable == (head.status == 502)

    run_jumping(run())


@requirement("connector:tcp")
async def test_raw_tcp_goes_to_a_tcp_upstream_and_nowhere_else() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: as_protocol(Echo()), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with forwarding(f"tcp://127.0.0.1:{port}") as tunnel:
        client = tunnel.open(RequestHead(StreamKind.TCP, "", "192.0.2.1:22", ""))  # what the edge names is not dialled
        assert (await client.answer()).status == 200
        client.transport.write(b"raw bytes")
        assert await client.receive(9) == b"raw bytes"
        client.transport.close()
        assert (await tunnel.open(http_request()).answer()).status == 502
    async with forwarding(f"http://127.0.0.1:{port}") as tunnel:
        head = await tunnel.open(RequestHead(StreamKind.TCP, "", f"127.0.0.1:{port}", "")).answer()
        assert (head.status, head.from_upstream) == (502, False)
    server.close()
    await server.wait_closed()


async def test_a_unix_socket_serves_as_upstream(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with upstream_server(unix=str(path)) as upstream, forwarding(f"unix:{path}") as tunnel:
        client = tunnel.open(http_request(path="/over-unix"))
        assert await client.receive(100) == b"GET /over-unix"
        assert upstream.requests[0][2]["host"] == "app.example"


async def test_an_https_upstream_must_show_a_certificate_we_trust(upstream_tls: ssl.SSLContext) -> None:
    async with upstream_server(tls=upstream_tls) as upstream:
        url = upstream.url.replace("http://127.0.0.1", "https://localhost")
        async with forwarding(url) as tunnel:
            assert (await tunnel.open(http_request()).answer()).status == 502
            assert not upstream.requests


async def test_an_upstream_that_reads_nothing_stops_the_client_and_grows_nothing() -> None:
    async with upstream_server() as upstream, forwarding(upstream.url) as tunnel:
        upstream.websocket = _NeverReads
        client = tunnel.open(websocket_request())
        assert (await client.answer()).status == 101
        written = 0
        while client.may_write.is_set():
            client.transport.write(bytes(65536))
            written += 65536
            assert written < 64 * 1024 * 1024, "nothing ever stops the writer"
            await asyncio.sleep(0)
        client.transport.abort()


class _NeverReads(Echo):
    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()


@pytest.fixture
def upstream_tls(tmp_path: Path) -> ssl.SSLContext:
    """A certificate of a CA that nobody trusts."""
    pair = throwaway_server(throwaway_ca(), "localhost")
    chain = tmp_path / "upstream.pem"
    chain.write_bytes(pair.certificate_pem + pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context
