"""Three edge nodes as processes, a connector of ours on them, and callers: for tests and for `bench/failover.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve as serve_connector
from tests.support.edge import DictDirectory, EchoProxy, OperatorFiles, make_tunnel
from tests.support.edge_load import Load
from tests.support.edge_processes import EdgeProcess, directory_over_http, edge_processes
from tests.support.redis import redis_server


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

    async def kill_one(self, before: int, after: int) -> float:
        """Kill the first node after so many calls, wait for more; returns when it was killed (loop time)."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.load.call_until(stop))
            await self.calls(before)
            self.nodes[0].kill()
            killed = asyncio.get_running_loop().time()
            await self.nodes[0].ended()
            await self.calls(after)
            stop.set()
        return killed

    async def restart_all(self, between: int) -> list[int]:
        """Stop and start every node in turn with so many calls in between; returns their exit statuses."""
        stop, statuses = asyncio.Event(), []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.load.call_until(stop))
            await self.calls(between)
            for node in self.nodes:
                node.terminate()
                statuses.append(await node.ended())
                await node.start()
                await self.calls(between)
            stop.set()
        return statuses


@asynccontextmanager
async def field_of_three(folder: Path, files: OperatorFiles) -> AsyncIterator[Field]:
    """Three nodes, and a connector with its four connections on them."""
    directory = DictDirectory()
    tunnel = directory.add(make_tunnel())
    token = folder / "token"
    token.write_text(tunnel.token.encode())
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(folder))
        url = await stack.enter_async_context(directory_over_http(directory))
        nodes = await stack.enter_async_context(edge_processes(3, folder, files, url, redis.url))
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
