"""Limits, time-outs, and what a client hears when something behind the edge is broken."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from typing import Any

import pytest

from qanat.edge.server import Edge
from qanat.net.transport import Receiver
from qanat.tunnel.connection import IncomingStream, RegistrationRefused
from qanat.tunnel.wss import Way, dial_wss
from qanat.wire.websocket import CloseReceived
from tests.support.edge import (
    DictDirectory,
    EchoProxy,
    OperatorFiles,
    client,
    connect,
    make_tunnel,
    registration,
    running_edge,
)
from tests.support.edge_clients import ask, speak, status_and_code
from tests.support.requirements import requirement


class Silent:
    """A connector's handler that never answers."""

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        return asyncio.Protocol()


async def outcome(edge: Edge, files: OperatorFiles, host: str) -> str:
    async with client(edge, files) as guest:
        answer = await guest.upgrade(host)
    return f"{answer.status} {answer.headers.get('x-qanat-error', '')} {answer.headers.get('x-qanat-hop', '')}".strip()


@requirement("edge:limits")
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"streams_per_tunnel": 1}, "429 too_many_streams"),
        ({"connections_per_client": 1}, "429 too_many_streams"),
        ({"client_connections": 1}, "refused"),
    ],
)
async def test_what_is_beyond_a_limit_is_refused(
    files: OperatorFiles, directory: DictDirectory, limit: dict[str, int], expected: str
) -> None:
    tunnel = directory.add(make_tunnel())
    async with running_edge(files, directory, limits=limit) as edge:
        connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
        async with client(edge, files) as first:
            assert (await first.upgrade(tunnel.host())).status == 101
            assert await ask(files, edge.client_address, tunnel.host(), "gateway.example.net") == expected
            assert await first.echo(b"undisturbed") == b"undisturbed"
        connection.close()


@requirement("edge:limits")
@pytest.mark.parametrize("limit", ["connections_per_tunnel", "connections_per_connector"])
async def test_a_connector_beyond_its_limit_is_told_to_go_on_trying(
    files: OperatorFiles, directory: DictDirectory, limit: str
) -> None:
    tunnel, connector = directory.add(make_tunnel()), uuid.uuid4()
    async with running_edge(files, directory, limits={limit: 1}) as edge:
        address = edge.connector_address
        first = await connect(address, files, tunnel.token, EchoProxy(), connector=connector)
        with pytest.raises(RegistrationRefused, match="Unauthorized for now"):
            await connect(address, files, tunnel.token, EchoProxy(), connector=connector, index=1)
        again = await connect(address, files, tunnel.token, EchoProxy(), connector=connector)
        await first.wait_closed()
        again.close()


@requirement("edge:limits")
async def test_slow_and_idle_guests_are_cut(files: OperatorFiles, directory: DictDirectory) -> None:
    tunnel = directory.add(make_tunnel())
    limits = {"header_timeout": "100ms", "idle_timeout": "200ms"}
    async with running_edge(files, directory, limits=limits) as edge:
        slow = await speak(edge.client_address, b"GET / HTTP/1.1\r\nHost:", files.client_context())
        assert status_and_code(slow) == "408 request_timeout"
        connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
        async with client(edge, files) as idle:
            assert (await idle.upgrade(tunnel.host())).status == 101
            event = await idle.event()
            assert isinstance(event, CloseReceived)
            assert event.reason == "idle at edge"
        connection.close()


@requirement("edge:typed-errors")
async def test_each_broken_hop_has_its_own_error(files: OperatorFiles, directory: DictDirectory) -> None:
    tunnel = directory.add(make_tunnel())
    async with running_edge(files, directory, limits={"open_timeout": "600ms"}) as edge:
        cases: list[tuple[Any, str]] = [
            (EchoProxy(502), "502 proxy_unreachable connector"),
            (EchoProxy(403), "502 upgrade_refused proxy"),
            (Silent(), "502 connector_unreachable connector"),
        ]
        for handler, expected in cases:
            connection = await connect(edge.connector_address, files, tunnel.token, handler)
            assert await outcome(edge, files, tunnel.host()) == expected
            connection.close()
            await connection.wait_closed()
            assert await outcome(edge, files, tunnel.host()) == "503 tunnel_not_connected connector"


@requirement("edge:typed-errors")
async def test_a_replica_whose_proxy_is_down_does_not_take_the_tunnel_down(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    broken = [await connect(edge.connector_address, files, tunnel.token, EchoProxy(502)) for _ in range(3)]
    well = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    for _ in range(4):
        assert await outcome(edge, files, tunnel.host()) == "101"
    for connection in (*broken, well):
        connection.close()


@requirement("edge:typed-errors")
async def test_a_stream_whose_connection_breaks_ends_with_a_reason(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, proxy = directory.add(make_tunnel()), EchoProxy()
    connection = await connect(edge.connector_address, files, tunnel.token, proxy)
    async with client(edge, files) as guest:
        assert (await guest.upgrade(tunnel.host())).status == 101
        connection.close()
        event = await guest.event()
        assert isinstance(event, CloseReceived)
        assert (event.close_code, event.reason) == (1014, "connection_lost at connector")


@requirement("edge:wss")
async def test_a_connector_may_come_by_websocket_on_the_client_port(
    files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    context = ssl.create_default_context(cafile=str(files.path("client-listener-ca")))
    context.check_hostname = False
    async with running_edge(files, directory, connectors={"wss_names": ["localhost"]}) as edge:
        port = edge.client_address[1]
        connection = await dial_wss(Way("localhost", port), EchoProxy(), context)
        await connection.register(registration(tunnel.token, 0, uuid.uuid4()))
        assert (await directory.event("connector_registered")).fields["protocol"] == "wss"
        async with client(edge, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status == 101
            assert await guest.echo(b"through 443") == b"through 443"
        assert await ask(files, edge.client_address, tunnel.host(), None) == "refused"
        assert await ask(files, edge.client_address, tunnel.host(), "gateway.example.net") == "101"
        connection.close()
