"""The product's edge with a stock cloudflared and with our connector: registration, clients, revocation."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from qanat.config import validate
from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve
from tests.interop.conftest import CONNECTORS
from tests.support.cloudflared import cloudflared
from tests.support.edge import DictDirectory, OperatorFiles, Tunnel, client, make_tunnel, running_edge
from tests.support.ports import free_port
from tests.support.proxy import until
from tests.support.requirements import requirement
from tests.support.upstream_server import upstream_server


@dataclass
class Target:
    """Where connectors find the edge."""

    directory: Path
    cacert: Path
    address: str


async def start(
    stack: AsyncExitStack, kind: str, protocol: str, target: Target, tunnel: Tunnel, url: str | None
) -> None:
    """Four connections' worth of a connector."""
    token = tunnel.token.encode()
    if kind == "cloudflared":
        await stack.enter_async_context(cloudflared(target, protocol, url, token=token))
        return
    settings = {
        "token": token,
        "edge": [target.address],
        "cacert": target.cacert,
        "protocol": protocol,
        "url": url,
        "grace_period": "1s",
    }
    await stack.enter_async_context(serve(validate(ConnectorConfig, settings)))


@requirement("connector:interop")
@pytest.mark.slow
@pytest.mark.parametrize(("connector", "protocol"), [each for each in CONNECTORS if "wss" not in each.values])
async def test_four_connections_serve_clients_until_the_tunnel_is_archived(
    connector: str, protocol: str, tmp_path: Path
) -> None:
    files, directory = OperatorFiles(tmp_path / "pki"), DictDirectory()
    tunnel = directory.add(make_tunnel())
    listener = {"quic": True, "listen_addr": f"127.0.0.1:{free_port()}"}
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_server())
        edge = await stack.enter_async_context(running_edge(files, directory, connectors=listener))
        target = Target(tmp_path, files.path("connector-listener-ca"), "{}:{}".format(*edge.connector_address))
        await start(stack, connector, protocol, target, tunnel, upstream.url)
        await until(lambda: len(edge.connections) == 4)
        for size in (1024, 1024 * 1024):
            async with client(edge, files) as guest:
                assert (await guest.upgrade(tunnel.host(), "/socket")).status == 101
                payload = os.urandom(size)
                assert await guest.echo(payload) == payload
        await directory.change(tunnel.record.model_copy(update={"archived": True}))
        await until(lambda: not len(edge.connections))
        async with asyncio.timeout(5), client(edge, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status >= 400


@requirement("setup:25")
@pytest.mark.slow
@pytest.mark.parametrize(("connector", "protocol"), [each for each in CONNECTORS if "wss" not in each.values])
async def test_a_connector_without_an_upstream_answers_503(connector: str, protocol: str, tmp_path: Path) -> None:
    files, directory = OperatorFiles(tmp_path / "pki"), DictDirectory()
    tunnel = directory.add(make_tunnel())
    listener = {"quic": True, "listen_addr": f"127.0.0.1:{free_port()}"}
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(running_edge(files, directory, connectors=listener))
        target = Target(tmp_path, files.path("connector-listener-ca"), "{}:{}".format(*edge.connector_address))
        await start(stack, connector, protocol, target, tunnel, None)
        await until(lambda: len(edge.connections) >= 1)
        async with client(edge, files) as guest:
            answer = await guest.upgrade(tunnel.host())
    assert (answer.status, answer.headers["x-qanat-error"]) == (503, "no_ingress_rules")
    assert answer.headers["x-qanat-hop"] == "connector"
    assert b"No ingress rules were defined" in answer.body
