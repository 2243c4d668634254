"""Networks that break without a word, between real nodes in namespaces of their own: typed errors, and it mends.

The test, its clients and connectors stand in one network, nodes A and B in others; each path has a cable of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from cryptography import x509

from qanat.client import TunnelLost, TunnelTransport
from qanat.tunnel.http2 import ConnectorHTTP2
from qanat.wire.websocket import CloseReceived
from tests.edge.test_lost_node import Upstream
from tests.support.asgi import serve_asgi
from tests.support.edge import (
    TIMEOUT,
    Answer,
    Client,
    DictDirectory,
    EchoProxy,
    OperatorFiles,
    Tunnel,
    connect,
    edge_settings,
    make_tunnel,
)
from tests.support.edge_processes import SERVICE_KEY, EdgeProcess, directory_over_http
from tests.support.namespaces import CUTS, Cut, Link, Namespace, namespaces, needs_namespaces, own_network
from tests.support.path import Parts, tunnel_running
from tests.support.redis import redis_server
from tests.support.requirements import requirement

pytestmark = [pytest.mark.slow, needs_namespaces, pytest.mark.timeout(150)]


@dataclass
class Wires:
    """Every cable; `near` is the test's end, or node A's."""

    a_control: Link
    b_control: Link
    a_to_b: Link
    b_connectors: Link
    a_clients: Link
    b_clients: Link


@dataclass
class Scene:
    """Two nodes that know one another."""

    a: EdgeProcess
    b: EdgeProcess
    wires: Wires
    files: OperatorFiles
    directory: DictDirectory

    async def ask(self, node: EdgeProcess, host: str) -> Answer:
        guest = await Client.dial(node.client_address, self.files.client_context())
        try:
            return await guest.upgrade(host)
        finally:
            await guest.close()

    async def until_served(self, node: EdgeProcess, host: str) -> None:
        async with asyncio.timeout(2 * TIMEOUT):
            while (await self.ask(node, host)).status != 101:  # noqa: ASYNC110 - asking is the wait
                await asyncio.sleep(0.1)

    async def until_connected(self, tunnel: Tunnel) -> ConnectorHTTP2:
        """A connection to node B, once neighbours have found one another again."""
        async with asyncio.timeout(2 * TIMEOUT):
            while True:
                try:
                    return await connect(self.b.connector_address, self.files, tunnel.token, EchoProxy())
                except OSError:
                    await asyncio.sleep(0.1)

    @asynccontextmanager
    async def session(self, node: EdgeProcess, tunnel: Tunnel) -> AsyncIterator[Client]:
        """A client that has been served."""
        await self.until_served(node, tunnel.host())
        guest = await Client.dial(node.client_address, self.files.client_context())
        try:
            assert (await guest.upgrade(tunnel.host())).status == 101
            assert await guest.echo(b"before") == b"before"
            yield guest
        finally:
            guest.writer.transport.abort()


@pytest.fixture
def networks() -> Iterator[tuple[Namespace, Namespace]]:
    with own_network(), namespaces(2) as (a, b):
        yield a, b


def node(folder: Path, files: OperatorFiles, network: Namespace, name: str, **places: str) -> EdgeProcess:
    settings = edge_settings(
        files,
        name=name,
        connectors={"listen_addr": places["connectors"]},
        clients={"listen_addr": places["clients"], "allowed_addresses": ["10.77.0.0/16"]},
        client_organizations=[{"san": "gateway.example.net", "organizations": ["org-1", "org_a"]}],
        control={"url": places["control"], "service_key": SERVICE_KEY},
        cluster={
            "redis_url": places["redis"],
            "listen_addr": places["nodes"],
            "tls": files.files("node"),
            "ca_file": str(files.path("node-ca")),
            "lifetime": "3s",
        },
    )
    return EdgeProcess(folder, settings, network.prefix)


@pytest.fixture
async def scene(
    networks: tuple[Namespace, Namespace], files: OperatorFiles, directory: DictDirectory, tmp_path: Path
) -> AsyncIterator[Scene]:
    a, b = networks
    wires = Wires(Link(1, a), Link(2, b), Link(3, b, near=a), Link(4, b), Link(5, a), Link(6, b))
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(tmp_path, bind="0.0.0.0"))
        url = await stack.enter_async_context(directory_over_http(directory, host="0.0.0.0"))
        port = url.rpartition(":")[2]

        def places(control: Link, nodes: str, connectors: str, clients: str) -> dict[str, str]:
            return {
                "control": f"http://{control.near_address}:{port}",
                "redis": f"redis://{control.near_address}:{redis.port}/0",
                "nodes": f"{nodes}:0",
                "connectors": f"{connectors}:0",
                "clients": f"{clients}:0",
            }

        to_a = places(
            wires.a_control, wires.a_to_b.near_address, wires.a_control.far_address, wires.a_clients.far_address
        )
        to_b = places(
            wires.b_control, wires.a_to_b.far_address, wires.b_connectors.far_address, wires.b_clients.far_address
        )
        processes = [node(tmp_path, files, a, "a", **to_a), node(tmp_path, files, b, "b", **to_b)]
        for process in processes:
            stack.push_async_callback(process.close)
            await process.start()
        yield Scene(processes[0], processes[1], wires, files, directory)


@requirement("edge:relay")
@pytest.mark.parametrize("how", CUTS)
async def test_a_cut_between_nodes_is_a_typed_error_and_mends(scene: Scene, how: Cut) -> None:
    tunnel = scene.directory.add(make_tunnel())
    connection = await connect(scene.b.connector_address, scene.files, tunnel.token, EchoProxy())
    async with scene.session(scene.a, tunnel) as guest:
        scene.wires.a_to_b.cut(how)
        answer = await scene.ask(scene.a, tunnel.host())
        assert (answer.status, answer.headers["x-qanat-error"]) == (503, "node_unreachable")
        assert answer.headers["x-qanat-hop"] == "edge"
        event = await guest.event()
        assert isinstance(event, CloseReceived)
        assert (event.close_code, event.reason) == (1014, "connection_lost at edge")
    assert (await scene.ask(scene.b, tunnel.host())).status == 101, "the other node serves all the while"
    scene.wires.a_to_b.mend(how)
    await scene.until_served(scene.a, tunnel.host())
    connection.close()


@requirement("edge:typed-errors")
@pytest.mark.parametrize("how", CUTS)
async def test_a_connector_that_vanishes_is_a_typed_error_and_comes_back(scene: Scene, how: Cut) -> None:
    tunnel = scene.directory.add(make_tunnel())
    connection = await connect(scene.b.connector_address, scene.files, tunnel.token, EchoProxy())
    async with scene.session(scene.a, tunnel) as guest, scene.session(scene.b, tunnel) as at_home:
        scene.wires.b_connectors.cut(how)
        answer = await scene.ask(scene.b, tunnel.host())
        assert answer.headers["x-qanat-error"] in ("connector_unreachable", "tunnel_not_connected")
        assert answer.headers["x-qanat-hop"] == "connector"
        for each in (guest, at_home):
            event = await each.event()
            assert isinstance(event, CloseReceived)
            assert (event.close_code, event.reason) == (1014, "connection_lost at connector")
    scene.wires.b_connectors.mend(how)
    await connection.wait_closed()
    again = await scene.until_connected(tunnel)
    await scene.until_served(scene.a, tunnel.host())
    again.close()


@requirement("edge:in-flight")
@pytest.mark.parametrize("how", CUTS)
async def test_a_call_through_a_node_that_vanishes_ends_in_a_typed_error(
    scene: Scene, tmp_path: Path, how: Cut
) -> None:
    upstream = Upstream()
    async with serve_asgi(upstream.app) as url:
        behind_b = Parts(scene.files, scene.directory, scene.b)
        async with tunnel_running(behind_b, tmp_path / "t", {"tickets": url}) as served:

            async def anchors(_: str) -> Sequence[x509.Certificate]:
                return [served.ca.certificate]

            await scene.until_served(scene.a, f"tickets.{served.record.domain}")
            transport = TunnelTransport(Parts(scene.files, scene.directory, scene.a).edge, anchors)
            async with httpx2.AsyncClient(transport=transport, timeout=3 * TIMEOUT) as http:
                call = asyncio.create_task(http.post(served.url("tickets", "/silent")))
                await asyncio.wait_for(upstream.waiting.wait(), TIMEOUT)
                scene.wires.a_clients.cut(how)
                with pytest.raises(TunnelLost) as lost:
                    await asyncio.wait_for(call, 2 * TIMEOUT)
                assert (lost.value.reason, lost.value.hop, lost.value.may_retry) == ("connection_lost", "edge", True)
                scene.wires.a_clients.mend(how)
                upstream.waiting.clear()
                await until_arrived(http, served.url("tickets", "/silent"), upstream)


async def until_arrived(http: httpx2.AsyncClient, url: str, upstream: Upstream) -> None:
    """Call until a call reaches the upstream: neighbours have to find one another again."""
    async with asyncio.timeout(3 * TIMEOUT):
        while not upstream.waiting.is_set():
            arrived = asyncio.create_task(upstream.waiting.wait())
            call = asyncio.create_task(http.post(url))
            await asyncio.wait({arrived, call}, return_when=asyncio.FIRST_COMPLETED)
            for task in (arrived, call):
                task.cancel()
            await asyncio.gather(arrived, call, return_exceptions=True)
            await asyncio.sleep(0.1)
