"""The connector as a whole against a small edge on loopback, over each rung."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qanat.connector.server import serve
from tests.connector.conftest import RUNGS, config_for
from tests.support.loopback_edge import TIMEOUT, loopback_edge
from tests.support.requirements import requirement
from tests.support.tunnel import Client, Upstreams, http_request, websocket_request


@requirement("connector:registers")
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_connector_registers_and_serves_streams(rung: str, tmp_path: Path) -> None:
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge, protocol=rung), Upstreams()) as connector:
        async with asyncio.timeout(TIMEOUT):
            await connector.wait_ready()
        (connection,) = await edge.guests.wait(1)
        assert connection.request.connector.protocol == rung
        assert connection.request.connector.connector_id == connector.connector_id
        client = Client()
        connection.open_stream(http_request("POST", headers=(("Content-Length", "5"),), has_body=True), client)
        client.transport.write(b"hello")
        assert (await client.answer()).status == 200
        assert await client.receive(5) == b"hello"
        client.transport.close()
        socket = Client()
        connection.open_stream(websocket_request(), socket)
        assert (await socket.answer()).status == 101
        socket.transport.write(b"x" * 300_000)
        assert await socket.receive(300_000) == b"x" * 300_000
        socket.transport.close()
        assert await socket.ended() is None
