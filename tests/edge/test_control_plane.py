"""The edge and the real control plane: over HTTP, stopped, started again, and changed meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qanat.control.operations.context import Actor
from qanat.control.operations.pages import PageRequest
from qanat.control.server import ControlServer
from qanat.control.server import serve as serve_control
from qanat.edge.server import Edge, serve
from qanat.tunnel.connection import RegistrationRefused
from qanat.wire.token import TunnelToken, parse_token
from tests.support.control import EDGE_KEY, control_config
from tests.support.edge import BASE, TIMEOUT, EchoProxy, OperatorFiles, client, connect, edge_config
from tests.support.edge_control import ask
from tests.support.pki import throwaway_ca
from tests.support.ports import free_port
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow


async def status(edge: Edge, files: OperatorFiles, host: str) -> str:
    async with client(edge, files) as guest:
        answer = await guest.upgrade(host)
    return answer.headers.get("x-qanat-error", str(answer.status))


async def until_refused(edge: Edge, files: OperatorFiles, token: TunnelToken) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                connection = await connect(edge.connector_address, files, token, EchoProxy(), index=3)
            except RegistrationRefused:
                return
            connection.close()


@requirement("edge:fail-static", "edge:push")
async def test_the_data_plane_outlives_the_control_plane_and_obeys_it_again(
    files: OperatorFiles, tmp_path: Path
) -> None:
    port, elsewhere = free_port(), free_port()
    at_home = control_config(tmp_path, listen_addr=f"127.0.0.1:{port}", domain_base=BASE, shutdown_timeout="1s")
    hidden = control_config(tmp_path, listen_addr=f"127.0.0.1:{elsewhere}", domain_base=BASE, shutdown_timeout="1s")
    settings = edge_config(
        files,
        control={"url": f"http://127.0.0.1:{port}", "service_key": EDGE_KEY},
        client_organizations=[{"san": "gateway.example.net", "organizations": "*"}],
    )
    async with serve(settings) as edge:
        async with serve_control(at_home) as control:
            tunnel = await ask(control, "")
            path, host = f"/{tunnel['id']}", f"tickets.{tunnel['domain']}"
            old = parse_token((await ask(control, f"{path}/reveal_token"))["tunnel_token"])
            first = await connect(edge.connector_address, files, old, EchoProxy())
            assert await status(edge, files, host) == "tunnel_has_no_certificate"
            await ask(control, f"{path}/certificates", {"ca_certificate_pem": throwaway_ca().certificate_pem.decode()})
            async with asyncio.timeout(TIMEOUT):
                while await status(edge, files, host) != "101":  # noqa: ASYNC110 - asking is the wait
                    await asyncio.sleep(0.05)

        assert await status(edge, files, host) == "101", "new calls work without the control plane"
        second = await connect(edge.connector_address, files, old, EchoProxy(), index=1)
        async with serve_control(hidden) as control:  # where the edge does not look
            new = parse_token((await ask(control, f"{path}/rotate_token"))["tunnel_token"])
        third = await connect(edge.connector_address, files, old, EchoProxy(), index=2)

        async with serve_control(at_home) as control:
            await until_refused(edge, files, old)
            fourth = await connect(edge.connector_address, files, new, EchoProxy(), index=3)
            assert await status(edge, files, host) == "101"
            await ask(control, f"{path}/archive")
            for connection in (first, second, third, fourth):
                await connection.wait_closed()
            assert await status(edge, files, host) == "tunnel_archived"


async def told(control: ControlServer, *kinds: str) -> list[tuple[str, str, object]]:
    """Kind, node and `known` of the events of these kinds, oldest first."""
    actor = Actor(id="local", kind="local", organization_id=control.bootstrapped.organization_id)
    page = await control.operations.events.list_page(actor, PageRequest(limit=100), kinds=kinds)
    return [(event.kind, event.node, event.fields.get("known")) for event in reversed(page.data)]


@requirement("edge:first-times")
async def test_what_is_new_is_known_over_two_nodes_and_a_restart(files: OperatorFiles, tmp_path: Path) -> None:
    config = control_config(tmp_path, domain_base=BASE)
    async with serve_control(config) as control:
        tunnel = await ask(control, "")
        path, host = f"/{tunnel['id']}", f"tickets.{tunnel['domain']}"
        await ask(control, f"{path}/certificates", {"ca_certificate_pem": throwaway_ca().certificate_pem.decode()})
        token = parse_token((await ask(control, f"{path}/reveal_token"))["tunnel_token"])
        for name in ("edge-1", "edge-2", "edge-1"):
            settings = edge_config(
                files,
                name=name,
                control={"url": control.url, "service_key": EDGE_KEY},
                client_organizations=[{"san": "gateway.example.net", "organizations": "*"}],
            )
            async with serve(settings) as edge:
                connection = await connect(edge.connector_address, files, token, EchoProxy())
                assert await status(edge, files, host) == "101"
                connection.close()
        assert await told(control, "connector_registered") == [
            ("connector_registered", "edge-1", False),
            ("connector_registered", "edge-2", True),
            ("connector_registered", "edge-1", True),
        ]
        assert await told(control, "tunnel_first_use") == [("tunnel_first_use", "edge-1", None)]
