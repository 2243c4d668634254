"""Proxy and connector in one network, as Compose and a pod put them: the proxy restarts, and the connector need not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import yaml
from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from qanat.client import TunnelTransport
from tests.support.asgi import serve_asgi
from tests.support.cloudflared import cloudflared, needs_cloudflared
from tests.support.edge import DictDirectory, OperatorFiles, make_tunnel, running_edge
from tests.support.namespaces import Link, Namespace, namespaces, needs_namespaces, own_network
from tests.support.path import Parts, proxy_settings, write_files
from tests.support.pki import throwaway_ca
from tests.support.requirements import requirement

PATIENCE = 60.0
CONNECTORS = ["qanat", pytest.param("cloudflared", marks=needs_cloudflared)]


@dataclass
class Target:
    """Where a connector finds the edge."""

    directory: Path
    cacert: Path
    address: str


@pytest.fixture
def network() -> Iterator[Namespace]:
    with own_network(), namespaces(1) as (made,):
        yield made


@asynccontextmanager
async def running(network: Namespace, *command: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command of ours in the shared network."""
    process = await asyncio.create_subprocess_exec(
        *network.prefix,
        sys.executable,
        "-m",
        "qanat",
        *command,
        env=os.environ | env,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            await process.wait()


async def until_answered(http: httpx2.AsyncClient, url: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if (await http.get(url)).text == "hello":
                    return
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(200)
@needs_namespaces
@pytest.mark.parametrize("connector", CONNECTORS)
@requirement("setup:26")
async def test_the_proxy_restarts_and_the_connector_is_not_touched(
    network: Namespace, tmp_path: Path, connector: str
) -> None:
    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    link, ca = Link(1, network), throwaway_ca()
    files, directory = OperatorFiles(tmp_path / "pki"), DictDirectory()
    tunnel = directory.add(make_tunnel(certificates=(ca.certificate_pem.decode(),)))
    write_files(tmp_path / "proxy", ca, tunnel.record.domain)

    async def anchors(_: str) -> Sequence[x509.Certificate]:
        return [ca.certificate]

    async with AsyncExitStack() as stack:
        app = Starlette(routes=[Route("/mcp", hello)])
        port = (await stack.enter_async_context(serve_asgi(app, host=link.near_address))).rpartition(":")[2]
        routes = {"tickets": f"http://{link.near_address}:{port}"}
        settings = proxy_settings(
            tmp_path / "proxy", tunnel.record.domain, routes, listen="127.0.0.1:8080", allowed="10.77.0.0/16"
        )
        config = tmp_path / "proxy.yaml"
        config.write_text(yaml.safe_dump(settings))
        edge = await stack.enter_async_context(
            running_edge(files, directory, connectors={"listen_addr": f"{link.near_address}:0"})
        )
        target = Target(tmp_path, files.path("connector-listener-ca"), "{}:{}".format(*edge.connector_address))
        transport = TunnelTransport(Parts(files, directory, edge).edge, anchors)
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, timeout=PATIENCE))
        if connector == "cloudflared":
            token, url = tunnel.token.encode(), "http://localhost:8080"
            await stack.enter_async_context(cloudflared(target, "http2", url, token=token, prefix=network.prefix))
        else:
            options = [f"--edge={target.address}", f"--cacert={target.cacert}", "--url=http://localhost:8080"]
            options += ["--protocol=http2", "--grace-period=1s"]
            await stack.enter_async_context(running(network, "connector", *options, TUNNEL_TOKEN=tunnel.token.encode()))
        where = f"https://tickets.{tunnel.record.domain}/mcp"
        async with running(network, "proxy", f"-config={config}"):
            await until_answered(http, where)
            before = {connection.registered.connection_id for connection in edge.connections}
        async with running(network, "proxy", f"-config={config}"):
            await until_answered(http, where)
        assert before <= {connection.registered.connection_id for connection in edge.connections}
        assert before
