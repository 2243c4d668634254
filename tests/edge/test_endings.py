"""How things end: probes, connectors that unregister, clients that vanish at any moment. Nothing may stay behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest

from qanat.edge.server import Edge
from tests.support.edge import TIMEOUT, Client, DictDirectory, EchoProxy, OperatorFiles, client, connect, make_tunnel
from tests.support.requirements import requirement


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what we wait for has no event of its own
            await asyncio.sleep(0.01)


def metric(edge: Edge, name: str, **labels: str) -> float:
    return edge.metrics.registry.get_sample_value(f"qanat_edge_{name}", labels) or 0.0


@requirement("edge:probes")
async def test_a_probe_hears_nothing_and_leaves_no_trace(
    edge: Edge, files: OperatorFiles, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=str(files.path("connector-listener-ca")))
    received: dict[str, bytes] = {}
    for name in ("probe.cftunnel.com", "h2.cftunnel.com"):
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(*edge.connector_address, ssl=context, server_hostname=name)
            if name.startswith("h2"):
                received[name] = await reader.read(3)  # what everybody but a probe gets
            writer.close()
            received[name] = received.get(name, b"") + await reader.read()
            await writer.wait_closed()
    assert received["probe.cftunnel.com"] == b""
    assert received["h2.cftunnel.com"].startswith(b"PRI")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@requirement("edge:failed")
async def test_a_fault_of_the_edge_is_answered_at_once_and_logged(
    edge: Edge,
    files: OperatorFiles,
    directory: DictDirectory,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(domain: str) -> None:
        raise ZeroDivisionError(domain)

    monkeypatch.setattr(directory, "by_domain", broken)  # a bug nobody foresaw
    async with client(edge, files) as running:
        answer = await running.upgrade("tickets.a1b2c3d4.tunnel.example.net")
    assert (answer.status, answer.headers["x-qanat-error"]) == (500, "edge_failed")
    await until(lambda: metric(edge, "clients") == 0)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None


@requirement("edge:unregister")
async def test_a_connector_that_unregisters_gets_no_new_stream_and_ends_with_its_last(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as running:
        assert (await running.upgrade(tunnel.host())).status == 101
        await connection.unregister()
        async with client(edge, files) as late:
            assert (await late.upgrade(tunnel.host())).headers["x-qanat-error"] == "tunnel_not_connected"
        assert await running.echo(b"still served") == b"still served"
    async with asyncio.timeout(TIMEOUT):
        await connection.wait_closed()
    assert metric(edge, "connections", protocol="http2") == 0


async def _vanish(edge: Edge, files: OperatorFiles, host: str, moment: int) -> None:
    """A client that is gone after the handshake, in the middle of its request, before the answer, or after it."""
    guest = await Client.dial(edge.client_address, files.client_context())
    if moment == 1:
        guest.writer.write(b"GET / HTTP/1.1\r\nHost: ")
    elif moment == 2:
        asking = asyncio.create_task(guest.upgrade(host))
        await asyncio.sleep(0)
        asking.cancel()
    elif moment == 3:
        await guest.upgrade(host)
        guest.codec.send_payload(bytes(100_000))
        guest.writer.write(guest.codec.data_to_send())
    transport = guest.writer.transport
    transport.abort() if moment % 2 else guest.writer.close()
    await asyncio.gather(guest.writer.wait_closed(), return_exceptions=True)


@requirement("edge:endings")
async def test_clients_that_vanish_at_any_moment_leave_nothing_behind(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel, proxy = directory.add(make_tunnel()), EchoProxy()
    connection = await connect(edge.connector_address, files, tunnel.token, proxy)
    await asyncio.gather(*(_vanish(edge, files, tunnel.host(), number % 4) for number in range(40)))
    await until(lambda: len(edge.sessions) == 0)
    (live,) = edge.connections
    await until(lambda: live.open_streams == 0 and connection.open_streams == 0)
    assert metric(edge, "clients") == 0
    assert metric(edge, "streams", via="local") == 0
    async with client(edge, files) as next_one:
        assert (await next_one.upgrade(tunnel.host())).status == 101
    connection.close()
