"""One tunnel for each kind of connector and protocol: the edge's connections on one side, an upstream on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from qanat.config import validate
from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve
from qanat.tunnel.connection import EdgeConnection, RequestHead
from tests.support.cloudflared import cloudflared, needs_cloudflared
from tests.support.loopback_edge import TIMEOUT, LoopbackEdge, loopback_edge, tunnel_token
from tests.support.tunnel import Client
from tests.support.upstream_server import UpstreamServer, upstream_server

CONNECTORS = [
    pytest.param("qanat", "http2", id="qanat-http2"),
    pytest.param("qanat", "quic", id="qanat-quic"),
    pytest.param("qanat", "wss", id="qanat-wss"),
    pytest.param("cloudflared", "http2", id="cloudflared-http2", marks=[needs_cloudflared, pytest.mark.slow]),
    pytest.param("cloudflared", "quic", id="cloudflared-quic", marks=[needs_cloudflared, pytest.mark.slow]),
]


@dataclass
class Wire:
    """A connector at work between `edge` and `upstream`."""

    edge: LoopbackEdge
    upstream: UpstreamServer
    connections: list[EdgeConnection]

    def open(self, head: RequestHead, connection: int = 0) -> Client:
        """Open a stream from the edge."""
        client = Client()
        self.connections[connection].open_stream(head, client)
        return client


async def start_connector(
    stack: AsyncExitStack, kind: str, protocol: str, edge: LoopbackEdge, url: str, count: int
) -> None:
    """A connector of that kind at work, with `count` connections to `edge`."""
    if kind == "cloudflared":
        await stack.enter_async_context(cloudflared(edge, protocol, url, connections=count))
        return
    settings = {
        "token": tunnel_token(),
        "edge": [edge.address],
        "edge_wss": [edge.wss_url],
        "cacert": edge.cacert,
        "protocol": protocol,
        "url": url,
        "ha_connections": count,
        "grace_period": "1s",
    }
    connector = await stack.enter_async_context(serve(validate(ConnectorConfig, settings)))
    async with asyncio.timeout(TIMEOUT):
        await connector.wait_ready(count)


async def _wire(kind: str, protocol: str, directory: Path, count: int) -> AsyncIterator[Wire]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_server())
        edge = await stack.enter_async_context(loopback_edge(directory))
        await start_connector(stack, kind, protocol, edge, upstream.url, count)
        yield Wire(edge, upstream, await edge.guests.wait(count))


@pytest.fixture
async def wire(connector: str, protocol: str, tmp_path: Path) -> AsyncIterator[Wire]:
    """A connector with one connection."""
    async for each in _wire(connector, protocol, tmp_path, 1):
        yield each


@pytest.fixture
async def four_wires(connector: str, protocol: str, tmp_path: Path) -> AsyncIterator[Wire]:
    """A connector with its usual four connections."""
    async for each in _wire(connector, protocol, tmp_path, 4):
        yield each
