"""Three nodes as processes, under load: one is killed, all are restarted, and the calls are counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve as serve_connector
from tests.support.edge import DictDirectory, EchoProxy, OperatorFiles, make_tunnel
from tests.support.edge_load import Load
from tests.support.edge_processes import EdgeProcess, directory_over_http, edge_processes
from tests.support.redis import redis_server
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow


@dataclass
class Field:
    """Three nodes, a connector of ours on them, and callers."""

    nodes: list[EdgeProcess]
    load: Load
    directory: DictDirectory

    async def calls(self, number: int) -> None:
        """Wait until so many more calls have been answered."""
        goal = self.load.done + number
        async with asyncio.timeout(40):
            while self.load.done < goal:  # noqa: ASYNC110 - counted by twenty tasks
                await asyncio.sleep(0.02)

    async def connected(self, number: int) -> None:
        """Wait until so many registrations have been seen in all."""
        async with asyncio.timeout(40):
            while self.registrations < number:  # noqa: ASYNC110 - events come from other processes
                await asyncio.sleep(0.02)

    @property
    def registrations(self) -> int:
        return sum(event.kind == "connector_registered" for event in self.directory.events)

    def nodes_of_connections(self) -> list[str]:
        """On which node each live connection is, by what was reported."""
        live: dict[object, str] = {}
        for event in sorted(self.directory.events, key=lambda event: event.time):
            if event.kind == "connector_registered":
                live[event.fields["conn_index"]] = event.node
        return sorted(live.values())


@pytest.fixture
async def scene(files: OperatorFiles, directory: DictDirectory, tmp_path: Path) -> AsyncIterator[Field]:
    tunnel = directory.add(make_tunnel())
    token = tmp_path / "token"
    token.write_text(tunnel.token.encode())
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(tmp_path))
        url = await stack.enter_async_context(directory_over_http(directory))
        nodes = await stack.enter_async_context(edge_processes(3, tmp_path, files, url, redis.url))
        config = ConnectorConfig(
            token_file=token,
            edge=tuple("{}:{}".format(*node.connector_address) for node in nodes),
            cacert=files.path("connector-listener-ca"),
            protocol="http2",
        )
        await stack.enter_async_context(serve_connector(config, EchoProxy()))
        load = Load([node.client_address for node in nodes], files, tunnel.host())
        scene = Field(nodes, load, directory)
        await scene.connected(4)
        yield scene


@requirement("edge:kill")
async def test_a_node_killed_under_load_costs_only_what_was_in_flight(scene: Field) -> None:
    assert len(set(scene.nodes_of_connections())) >= 2
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.load.call_until(stop))
        await scene.calls(200)
        victim = scene.nodes[0]
        victim.kill()
        killed = asyncio.get_running_loop().time()
        await victim.ended()
        await scene.calls(400)
        stop.set()
    load = scene.load
    worst = max((moment - killed for moment, _ in load.lost), default=0.0)
    print(f"killed one of three: {load.done} calls answered, {len(load.lost)} in flight lost within {worst:.3f} s")
    assert len(load.lost) <= load.callers, "at most one call of each session was under way"
    assert all(moment >= killed for moment, _ in load.lost)
    assert all(reason for _, reason in load.lost), "each says how its session ended"


@requirement("edge:rolling-restart")
async def test_a_rolling_restart_of_all_nodes_loses_no_call(scene: Field) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.load.call_until(stop))
        await scene.calls(200)
        for node in scene.nodes:
            node.terminate()
            assert await node.ended() == 0
            await node.start()
            await scene.calls(200)
        stop.set()
    load = scene.load
    print(f"three nodes restarted: {load.done} calls answered, {len(load.lost)} lost, {load.redials} redials")
    assert load.lost == []
