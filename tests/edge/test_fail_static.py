"""The control plane goes away and comes back; tokens are rotated and tunnels archived meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from qanat.edge.server import Edge
from qanat.tunnel.connection import RegistrationRefused
from qanat.wire.token import TunnelToken
from qanat.wire.websocket import CloseReceived
from tests.support.edge import TIMEOUT, DictDirectory, EchoProxy, OperatorFiles, Tunnel, client, connect, make_tunnel
from tests.support.requirements import requirement


def rotate(tunnel: Tunnel) -> tuple[Tunnel, TunnelToken]:
    """The tunnel with a new secret, and the token that worked before."""
    secret, old = os.urandom(32), tunnel.token
    record = tunnel.record.model_copy(update={"secret_sha256": hashlib.sha256(secret).hexdigest()})
    return Tunnel(record, TunnelToken(old.account_tag, old.tunnel_uuid, secret)), old


async def until_refused(edge: Edge, files: OperatorFiles, token: TunnelToken) -> None:
    """Try the token until the edge refuses it."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                connection = await connect(edge.connector_address, files, token, EchoProxy())
            except RegistrationRefused:
                return
            connection.close()
            await connection.wait_closed()


@requirement("edge:fail-static")
async def test_without_the_control_plane_what_is_known_goes_on(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, unknown = directory.add(make_tunnel()), directory.add(make_tunnel("n0tseen1"))
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as before:
        assert (await before.upgrade(tunnel.host())).status == 101
        await directory.stop()
        assert await before.echo(b"existing") == b"existing"
        async with client(edge, files) as new:
            assert (await new.upgrade(tunnel.host())).status == 101
    connection.close()
    again = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as stranger:
        answer = await stranger.upgrade(unknown.host())
        assert (answer.status, answer.headers["x-qanat-error"]) == (503, "directory_unavailable")
    with pytest.raises(RegistrationRefused, match="Unauthorized"):
        await connect(edge.connector_address, files, unknown.token, EchoProxy())
    again.close()


@requirement("edge:fail-static")
async def test_a_token_rotated_while_the_edge_was_deaf_is_refused_once_it_hears_again(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    await directory.stop()
    changed, old = rotate(tunnel)
    await directory.change(changed.record)
    still = await connect(edge.connector_address, files, old, EchoProxy(), index=1)
    directory.up = True
    await until_refused(edge, files, old)
    new = await connect(edge.connector_address, files, changed.token, EchoProxy(), index=2)
    assert len(edge.connections) == 3, "live connections outlive a rotation"
    for each in (connection, still, new):
        each.close()


@requirement("edge:push")
async def test_an_archived_tunnel_is_cut_at_once(edge: Edge, files: OperatorFiles, directory: DictDirectory) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as guest:
        assert (await guest.upgrade(tunnel.host())).status == 101
        await directory.change(tunnel.record.model_copy(update={"archived": True}))
        assert isinstance(await guest.event(), CloseReceived)
        await connection.wait_closed()
    async with client(edge, files) as late:
        assert (await late.upgrade(tunnel.host())).headers["x-qanat-error"] == "tunnel_archived"
    with pytest.raises(RegistrationRefused, match="archived") as refusal:
        await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    assert "Unauthorized" not in refusal.value.cause, "there is nothing to wait for"


@requirement("edge:push")
async def test_a_certificate_registered_later_opens_the_tunnel(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel(certificates=()))
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as early:
        assert (await early.upgrade(tunnel.host())).headers["x-qanat-error"] == "tunnel_has_no_certificate"
    await directory.change(tunnel.record.model_copy(update={"ca_certificates": ("pem",)}))
    async with asyncio.timeout(TIMEOUT):
        status = 0
        while status != 101:
            async with client(edge, files) as late:
                status = (await late.upgrade(tunnel.host())).status
    connection.close()


@requirement("edge:events")
async def test_operators_see_connectors_come_and_go_and_first_use(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    registered = await directory.event("connector_registered")
    assert registered.tunnel_id == tunnel.record.id
    assert registered.fields["version"] == "2026.8.2"
    assert registered.fields["protocol"] == "http2"
    assert str(registered.fields["address"]).startswith("127.0.0.1:")
    async with client(edge, files) as guest:
        assert (await guest.upgrade(tunnel.host())).status == 101
    assert (await directory.event("tunnel_first_use")).tunnel_id == tunnel.record.id
    connection.close()
    lost = await directory.event("connector_lost")
    assert lost.fields["connector_id"] == registered.fields["connector_id"]
    with pytest.raises(RegistrationRefused):
        await connect(edge.connector_address, files, make_tunnel().token, EchoProxy())
    assert (await directory.event("connector_refused")).fields["reason"] == "invalid_token"
