"""The ladder at work, and the ways through HTTP proxies."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qanat.connector.server import serve
from qanat.connector.supervisor import Supervisor
from qanat.net.splice import splice
from qanat.net.transport import Receiver, Transport, as_protocol
from tests.connector.conftest import config_for
from tests.connector.test_lifecycle import fields, open_socket, wait_logged
from tests.support.loopback_edge import TIMEOUT, loopback_edge
from tests.support.requirements import requirement
from tests.support.tunnel import Upstreams


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, logger="qanat.connector")
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class ConnectProxy(Receiver):
    """An HTTP proxy that knows CONNECT and one user."""

    def __init__(self, seen: list[str], user: str, port: int) -> None:
        self._seen, self._port, self._buffer = seen, port, b""
        self._expected = "Basic " + base64.b64encode(user.encode()).decode()

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if b"\r\n\r\n" not in self._buffer:
            return
        self._transport.pause_reading()
        lines = self._buffer.decode().split("\r\n")
        self._seen.append(lines[0])
        if f"Proxy-Authorization: {self._expected}" not in lines:
            self._transport.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            self._transport.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        far, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", self._port)
        self._transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        splice(self._transport, far)
        self._transport.resume_reading()


@asynccontextmanager
async def connect_proxy(user: str, port: int) -> AsyncIterator[tuple[int, list[str]]]:
    """A proxy whose every tunnel leads to a local port; yields its own port and the request lines it got."""
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: as_protocol(ConnectProxy(seen, user, port)), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


@requirement("connector:ladder", "connector:ladder-explains")
@pytest.mark.slow
async def test_where_only_udp_passes_the_connector_takes_quic_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"edge_wss": ["wss://localhost:1"]}
    async with (
        loopback_edge(tmp_path, http2=False, wss=False) as edge,
        serve(config_for(edge, **changes), Upstreams()) as connector,
    ):
        async with asyncio.timeout(TIMEOUT):
            await connector.wait_ready()
        (line,) = fields(caplog, "Chose a protocol")
        assert line["protocol"] == "quic"
        assert str(line["others"]).startswith("http2: ")
        assert "refused" in str(line["others"])


@requirement("connector:ladder", "connector:ladder-explains", "connector:wss")
@pytest.mark.slow
async def test_where_only_port_443_passes_the_connector_takes_the_websocket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        loopback_edge(tmp_path, http2=False, quic=False) as edge,
        serve(config_for(edge), Upstreams()) as connector,
    ):
        async with asyncio.timeout(2 * TIMEOUT):
            await connector.wait_ready()
        (line,) = fields(caplog, "Chose a protocol")
        assert line["protocol"] == "wss"
        assert [part.split(":")[0] for part in str(line["others"]).split("; ")] == ["http2", "quic"]
        assert len(fields(caplog, "Switching to another protocol")) == 2


async def test_the_first_rung_is_taken_without_ado(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge), Upstreams()) as connector:
        async with asyncio.timeout(TIMEOUT):
            await connector.wait_ready()
        (line,) = fields(caplog, "Chose a protocol")
        assert (line["protocol"], line["others"]) == ("http2", "not tried")


@requirement("connector:proxy", "connector:wss")
async def test_the_websocket_leaves_through_an_http_proxy_with_a_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loopback_edge(tmp_path) as edge, connect_proxy("user:p@ss", edge.wss_port) as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{port}")
        config = config_for(edge, protocol="wss", edge_wss=["wss://localhost:44321"])
        async with serve(config, Upstreams()) as connector:
            async with asyncio.timeout(TIMEOUT):
                await connector.wait_ready()
            client = await open_socket(edge)
            client.transport.write(b"through the proxy")
            assert await client.receive(17) == b"through the proxy"
            assert seen == ["CONNECT localhost:44321 HTTP/1.1"]
            client.transport.close()
    assert "p@ss" not in str([vars(record) for record in caplog.records])


@requirement("connector:proxy")
async def test_a_proxy_that_wants_another_password_is_named_in_the_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loopback_edge(tmp_path) as edge, connect_proxy("user:right", edge.wss_port) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:wrong@127.0.0.1:{port}")
        async with serve(config_for(edge, protocol="wss"), Upstreams()):
            (line,) = await wait_logged(caplog, "Unable to establish connection with the edge")
            assert line["error"] == "the HTTP proxy answered 407 Proxy Authentication Required"
            assert "wrong" not in str([vars(record) for record in caplog.records])


@requirement("connector:proxy")
async def test_no_proxy_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with loopback_edge(tmp_path) as edge:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "localhost")
        async with serve(config_for(edge, protocol="wss"), Upstreams()) as connector, asyncio.timeout(TIMEOUT):
            await connector.wait_ready()


@requirement("connector:spread")
@pytest.mark.slow
async def test_connections_spread_over_two_edges_and_move_when_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "spread_every", 1.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with loopback_edge(tmp_path / "a") as a, loopback_edge(tmp_path / "b") as b:
        roots = tmp_path / "both.pem"
        roots.write_bytes(a.cacert.read_bytes() + b.cacert.read_bytes())
        both = {"edge": [a.address, b.address], "cacert": roots}
        config = config_for(a, **both, protocol="http2", ha_connections=4)
        async with serve(config, Upstreams()) as connector:
            async with asyncio.timeout(TIMEOUT):
                await connector.wait_ready(4)
            await a.guests.wait(2)
            await b.guests.wait(2)
            await a.close()
            async with asyncio.timeout(TIMEOUT):
                await connector.wait_ready(4)
            await b.guests.wait(4)
            await a.open()
            await a.guests.wait(1)  # it is back: one connection moves there
            await b.guests.wait(3)
