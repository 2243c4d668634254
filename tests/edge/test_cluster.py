"""Several nodes and a real Redis: who holds what, relays between nodes, spreading, and life without Redis."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve as serve_connector
from qanat.edge import balance
from qanat.edge.membership import Node, NodeSaid, RouteSaid, encode
from qanat.edge.server import Edge
from qanat.tunnel.connection import RegistrationRefused
from tests.support.edge import (
    TIMEOUT,
    DictDirectory,
    EchoProxy,
    OperatorFiles,
    client,
    connect,
    make_tunnel,
    running_edge,
)
from tests.support.ports import free_port
from tests.support.redis import RedisServer, redis_server
from tests.support.requirements import requirement


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


pytestmark = pytest.mark.slow


def cluster_settings(files: OperatorFiles, redis: RedisServer, **changes: Any) -> dict[str, Any]:
    return {
        "redis_url": redis.url,
        "listen_addr": "127.0.0.1:0",
        "tls": files.files("node"),
        "ca_file": str(files.path("node-ca")),
        "lifetime": "900ms",
        **changes,
    }


@asynccontextmanager
async def nodes(
    count: int, files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> AsyncIterator[list[Edge]]:
    """Nodes that all know one another."""
    async with AsyncExitStack() as stack:
        edges = [
            await stack.enter_async_context(
                running_edge(files, directory, name=f"edge-{number}", cluster=cluster_settings(files, redis))
            )
            for number in range(1, count + 1)
        ]
        await until(lambda: all(len(members(edge).nodes) == count - 1 for edge in edges))
        yield edges


def members(edge: Edge) -> Any:
    assert edge.cluster is not None
    return edge.cluster.members


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only the loop can bring about."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what we wait for has no event of its own
            await asyncio.sleep(0.01)


def knows(edge: Edge, tunnel: uuid.UUID) -> bool:
    return bool(members(edge).holders(tunnel, asyncio.get_running_loop().time()))


@requirement("edge:relay")
async def test_a_client_on_one_node_reaches_a_tunnel_held_only_by_another(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    tunnel, proxy = directory.add(make_tunnel()), EchoProxy()
    async with nodes(2, files, directory, redis) as (a, b):
        connection = await connect(b.connector_address, files, tunnel.token, proxy)
        await until(lambda: knows(a, tunnel.record.uuid))
        async with client(a, files) as guest:
            assert (await guest.upgrade(tunnel.host(), "/mcp")).status == 101
            assert proxy.heads[0].path == "/mcp"
            payload = bytes(range(256)) * 5_000
            assert await guest.echo(payload) == payload
        connection.close()
        await until(lambda: not knows(a, tunnel.record.uuid))
        async with client(a, files) as guest:
            assert (await guest.upgrade(tunnel.host())).headers["x-qanat-error"] == "tunnel_not_connected"


@requirement("edge:relay")
async def test_a_cut_between_nodes_is_a_typed_error(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    tunnel = directory.add(make_tunnel())
    async with nodes(2, files, directory, redis) as (a, b):
        connection = await connect(b.connector_address, files, tunnel.token, EchoProxy())
        await until(lambda: knows(a, tunnel.record.uuid))
        assert b.cluster is not None
        assert b.cluster._listener is not None
        await b.cluster._listener.close()
        async with client(a, files) as guest:
            answer = await guest.upgrade(tunnel.host())
        assert (answer.status, answer.headers["x-qanat-error"]) == (503, "node_unreachable")
        assert answer.headers["x-qanat-hop"] == "edge"
        connection.close()


@requirement("edge:relay")
async def test_a_node_that_swallows_packets_is_a_typed_error_too(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    tunnel = directory.add(make_tunnel())
    with socket.create_server(("127.0.0.1", 0), backlog=1) as deaf:  # completes the TCP handshake and no other
        async with nodes(1, files, directory, redis) as (a,):
            node = Node("deaf", "deaf", "127.0.0.1", deaf.getsockname()[1])
            async with Redis.from_url(redis.url) as client_of_redis:
                said = (NodeSaid("deaf", node), RouteSaid("deaf", tunnel.record.uuid, 1))
                for message in said:
                    await client_of_redis.publish("qanat:edge:changes", encode(message))
            await until(lambda: knows(a, tunnel.record.uuid))
            async with client(a, files) as guest:
                answer = await guest.upgrade(tunnel.host())
            assert (answer.status, answer.headers["x-qanat-error"]) == (503, "node_unreachable")


@requirement("edge:spread")
async def test_a_connector_never_has_all_four_connections_on_one_node_while_another_is_up(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    tunnel, connector = directory.add(make_tunnel()), uuid.uuid4()
    async with nodes(2, files, directory, redis) as (a, b):

        async def dial(index: int, attempts: int = 0) -> Any:
            return await connect(
                a.connector_address,
                files,
                tunnel.token,
                EchoProxy(),
                index=index,
                connector=connector,
                attempts=attempts,
            )

        held = [await dial(0), await dial(1)]
        with pytest.raises(RegistrationRefused, match="Unauthorized here"):
            await dial(2)
        held.append(await dial(2, attempts=2))  # perhaps it cannot reach the other node
        with pytest.raises(RegistrationRefused, match="Unauthorized here"):
            await dial(3, attempts=9)
        elsewhere = await connect(b.connector_address, files, tunnel.token, EchoProxy(), index=3, connector=connector)
        for connection in (*held, elsewhere):
            connection.close()


@requirement("edge:redis-loss")
async def test_without_redis_known_routes_go_on_and_new_ones_are_announced_when_it_returns(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    known, later = directory.add(make_tunnel()), directory.add(make_tunnel("b2c3d4e5"))
    async with nodes(2, files, directory, redis) as (a, b):
        first = await connect(b.connector_address, files, known.token, EchoProxy())
        await until(lambda: knows(a, known.record.uuid))
        await redis.stop()
        await until(
            lambda: not any(edge.cluster and edge.cluster.directory and edge.cluster.directory.up for edge in (a, b))
        )
        second = await connect(b.connector_address, files, later.token, EchoProxy())
        async with client(a, files) as guest:
            assert (await guest.upgrade(known.host())).status == 101
        await redis.start()
        await until(lambda: knows(a, later.record.uuid))
        async with client(a, files) as guest:
            assert (await guest.upgrade(later.host())).status == 101
        first.close()
        second.close()


@requirement("edge:drain")
async def test_a_draining_node_hands_over_without_losing_a_stream(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    tunnel = directory.add(make_tunnel())
    async with nodes(2, files, directory, redis) as (a, b):
        on_a = await connect(a.connector_address, files, tunnel.token, EchoProxy())
        on_b = await connect(b.connector_address, files, tunnel.token, EchoProxy(), index=1)
        await until(lambda: knows(b, tunnel.record.uuid))
        async with client(a, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status == 101
            assert await guest.echo(b"before") == b"before"
            draining = asyncio.create_task(a.drain())
            event = await guest.event()
            assert getattr(event, "payload", b"") == b"qanat-going-away"
            assert await guest.echo(b"still here") == b"still here"
            await until(lambda: not knows(b, tunnel.record.uuid))
            async with client(b, files) as other:
                assert (await other.upgrade(tunnel.host())).status == 101
        await draining
        await on_a.wait_closed()
        on_b.close()


@requirement("edge:node-lost")
async def test_a_node_that_dies_is_forgotten_and_its_streams_end_with_a_reason(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer
) -> None:
    tunnel = directory.add(make_tunnel())
    async with AsyncExitStack() as stack:
        a, b, c = await stack.enter_async_context(nodes(3, files, directory, redis))
        on_b = await connect(b.connector_address, files, tunnel.token, EchoProxy())
        await until(lambda: knows(a, tunnel.record.uuid))
        async with client(a, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status == 101
            on_c = await connect(c.connector_address, files, tunnel.token, EchoProxy(), index=1)
            await until(lambda: len(members(a).holders(tunnel.record.uuid, 0.0)) == 2)
            assert b.cluster is not None
            assert b.cluster._listener is not None
            await b.cluster._listener.close()
            event = await guest.event()
            assert (getattr(event, "close_code", 0), getattr(event, "reason", "")) == (1014, "connection_lost at edge")
        async with client(a, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status == 101
        on_b.close()
        on_c.close()


@requirement("edge:spread")
async def test_a_node_that_joins_gets_its_share_of_a_connector(
    files: OperatorFiles, directory: DictDirectory, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balance, "PERIOD", 0.2)
    tunnel, port = directory.add(make_tunnel()), free_port()
    token = tmp_path / "token"
    token.write_text(tunnel.token.encode())
    cluster = cluster_settings(files, redis)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running_edge(files, directory, name="a", cluster=cluster))
        config = ConnectorConfig(
            token_file=token,
            edge=(f"127.0.0.1:{a.connector_address[1]}", f"127.0.0.1:{port}"),
            cacert=files.path("connector-listener-ca"),
            protocol="http2",
        )
        await stack.enter_async_context(serve_connector(config, EchoProxy()))
        await until(lambda: len(a.connections) == 4)
        b = await stack.enter_async_context(
            running_edge(files, directory, name="b", cluster=cluster, connectors={"listen_addr": f"127.0.0.1:{port}"})
        )
        await until(lambda: len(a.connections) + len(b.connections) == 4 and len(b.connections) >= 1)
        async with client(b, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status == 101
