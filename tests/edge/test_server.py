"""The edge from outside: connectors register, clients come through, and both hear why when they do not."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from contextlib import AsyncExitStack

import pytest

from qanat.edge.request import UpgradeParser
from qanat.edge.server import Edge
from qanat.tunnel.connection import RegistrationRefused
from qanat.tunnel.quic_udp import dial_quic
from tests.support.edge import (
    CLIENT_NAME,
    TIMEOUT,
    DictDirectory,
    EchoProxy,
    OperatorFiles,
    client,
    connect,
    make_tunnel,
    registration,
)
from tests.support.weight import count_alive


async def test_a_client_reaches_the_proxy_behind_a_connector(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, proxy = directory.add(make_tunnel()), EchoProxy()
    connection = await connect(edge.connector_address, files, tunnel.token, proxy)
    async with client(edge, files) as guest:
        assert (await guest.upgrade(tunnel.host() + ":443", "/mcp?x=1")).status == 101
        assert proxy.heads[0].authority == tunnel.host()
        assert proxy.heads[0].path == "/mcp?x=1"
        payload = os.urandom(3_000_000)
        assert await guest.echo(payload) == payload
    connection.close()


async def test_internal_headers_of_a_client_never_reach_the_connector(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, proxy = directory.add(make_tunnel()), EchoProxy()
    connection = await connect(edge.connector_address, files, tunnel.token, proxy)
    smuggled = (
        "Cf-Cloudflared-Proxy-Connection-Upgrade: control-stream\r\nCf-Cloudflared-Proxy-Src: x\r\n"
        "Cf-Int-Anything: y\r\nX-Qanat-Relay: 1\r\nCookie: z\r\n"
    )
    async with client(edge, files) as guest:
        assert (await guest.upgrade(tunnel.host(), extra=smuggled)).status == 101
    names = {name for name, _ in proxy.heads[0].headers}
    assert names == {"sec-websocket-version", "sec-websocket-key", "accept-encoding"}
    connection.close()


async def test_a_wrong_secret_is_refused_in_words_that_keep_a_connector_trying(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    for wrong in (
        make_tunnel().token,
        type(tunnel.token)(tunnel.token.account_tag, tunnel.token.tunnel_uuid, b"no"),
        type(tunnel.token)("ff", tunnel.token.tunnel_uuid, tunnel.token.secret),
    ):
        with pytest.raises(RegistrationRefused, match="Unauthorized"):
            await connect(edge.connector_address, files, wrong, EchoProxy())


async def test_a_connection_with_the_same_index_replaces_the_old_one(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, connector = directory.add(make_tunnel()), uuid.uuid4()
    old = await connect(edge.connector_address, files, tunnel.token, EchoProxy(), connector=connector)
    new = await connect(edge.connector_address, files, tunnel.token, EchoProxy(), connector=connector)
    await old.wait_closed()
    assert len(edge.connections) == 1
    new.close()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"archived": True}, 410, "tunnel_archived"),
        ({"ca_certificates": ()}, 409, "tunnel_has_no_certificate"),
        ({}, 503, "tunnel_not_connected"),
        ({"organization_id": "org-2"}, 404, "unknown_host"),
    ],
)
async def test_a_tunnel_that_is_not_ready_gets_a_typed_error(
    edge: Edge, files: OperatorFiles, directory: DictDirectory, change: dict[str, object], status: int, code: str
) -> None:
    tunnel = make_tunnel()
    tunnel.record = tunnel.record.model_copy(update=change)
    directory.add(tunnel)
    async with client(edge, files) as guest:
        answer = await guest.upgrade(tunnel.host())
    assert answer.status == status
    assert answer.headers["x-qanat-error"] == code
    assert json.loads(answer.body)["error"]["code"] == code
    event = await directory.event("client_refused")
    assert event.fields["code"] == code
    assert event.fields["client"] == CLIENT_NAME


async def test_a_connector_may_come_over_quic(
    edge_with_quic: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, proxy = directory.add(make_tunnel()), EchoProxy()
    roots = files.path("connector-listener-ca").read_bytes()
    connection = await dial_quic(*edge_with_quic.connector_address, proxy, roots, timeout=TIMEOUT)
    await connection.register(registration(tunnel.token, 0, uuid.uuid4()))
    async with client(edge_with_quic, files) as guest:
        assert (await guest.upgrade(tunnel.host())).status == 101
        assert await guest.echo(b"over quic") == b"over quic"
    connection.close()
    await connection.wait_closed()


async def test_an_open_session_holds_nothing_of_how_it_began(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    before: dict[str, int] = {}
    async with AsyncExitStack() as open_clients:
        for number in range(5):
            guest = await open_clients.enter_async_context(client(edge, files))
            assert (await guest.upgrade(tunnel.host())).status == 101
            assert await guest.echo(b"hello") == b"hello"
            if not number:
                before = count_alive(asyncio.Task, UpgradeParser)
        assert count_alive(asyncio.Task, UpgradeParser) == before
        assert before["UpgradeParser"] == 0
    connection.close()
