"""How connections end and come back, over each rung: closes, kills, stops, tokens, refusals."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from qanat.connector.server import Connector, serve
from tests.connector.conftest import RUNGS, config_for
from tests.support.loopback_edge import TIMEOUT, LoopbackEdge, loopback_edge, tunnel_token
from tests.support.pki import throwaway_ca
from tests.support.proxy import until
from tests.support.requirements import requirement
from tests.support.tunnel import Client, Upstreams, websocket_request

OTHER_SECRET = b"another secret of thirty-two byte"


def fields(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    """The fields of every log line with this message."""
    return [vars(record)["fields"] for record in caplog.records if record.getMessage() == message]


async def wait_logged(caplog: pytest.LogCaptureFixture, message: str, count: int = 1) -> list[dict[str, object]]:
    """The fields of the first `count` lines with this message, once they are there."""
    await until(lambda: len(fields(caplog, message)) >= count)
    return fields(caplog, message)[:count]


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="qanat.connector")


async def open_socket(edge: LoopbackEdge) -> Client:
    """A WebSocket that the connector's handler echoes."""
    client = Client()
    edge.guests.connections[0].open_stream(websocket_request(), client)
    assert (await client.answer()).status == 101
    return client


async def echo(client: Client, data: bytes) -> None:
    client.transport.write(data)
    assert await client.receive(len(data)) == data


async def ready(connector: Connector, connections: int = 1) -> None:
    async with asyncio.timeout(TIMEOUT):
        await connector.wait_ready(connections)


async def test_a_connection_that_comes_as_the_wait_for_it_begins_ends_the_wait(tmp_path: Path) -> None:
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge), Upstreams()) as connector:
        await ready(connector)
        shared = connector._shared
        (found,) = shared.live.values()
        waiting = asyncio.create_task(ready(connector, 2))
        await asyncio.sleep(0)
        shared.went_up(1, *found)
        await waiting
        shared.went_down(1)


@requirement("connector:first-retry")
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_connection_that_the_edge_closes_is_back_after_less_than_a_second(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge, protocol=rung), Upstreams()) as connector:
        await ready(connector)
        (old,) = await edge.guests.wait(1)
        old.close()
        await wait_logged(caplog, "Lost connection with the edge")
        await wait_logged(caplog, "Registered tunnel connection", 2)
        (new,) = await edge.guests.wait(1)
        assert new is not old
        pauses = [float(str(line["in"]).removesuffix("s")) for line in fields(caplog, "Retrying connection")]
        assert pauses
        assert max(pauses) <= 1.0


@requirement("connector:edge-killed")
@pytest.mark.slow
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_killed_edge_is_noticed_and_found_again_when_it_is_back(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge, protocol=rung), Upstreams()) as connector:
        await ready(connector)
        await edge.kill()
        await wait_logged(caplog, "Lost connection with the edge")
        assert connector.ready_connections == 0
        await edge.open()
        await ready(connector)
        assert fields(caplog, "Registered tunnel connection")[-1]["protocol"] == rung


@requirement("connector:edge-restart")
@pytest.mark.slow
@pytest.mark.parametrize("rung", RUNGS)
async def test_all_four_connections_survive_a_restart_of_the_edge(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config_changes = {"protocol": rung, "ha_connections": 4}
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge, **config_changes), Upstreams()) as connector:
        await ready(connector, 4)
        await edge.close()
        await wait_logged(caplog, "Lost connection with the edge", 4)
        await edge.open()
        await ready(connector, 4)
        await edge.guests.wait(4)


@requirement("connector:stop-idle")
@pytest.mark.parametrize("rung", RUNGS)
async def test_an_idle_connector_unregisters_and_stops_at_once(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with loopback_edge(tmp_path) as edge:
        connector = Connector(config_for(edge, protocol=rung, grace_period="3m"), Upstreams())
        await connector.start()
        await ready(connector)
        async with asyncio.timeout(TIMEOUT):
            await connector.stop()
        assert "draining" in edge.guests.told
        assert fields(caplog, "Unregistered tunnel connection")


@requirement("connector:stop-graceful")
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_stopping_connector_lets_a_running_stream_finish_and_then_ends_early(rung: str, tmp_path: Path) -> None:
    async with loopback_edge(tmp_path) as edge:
        connector = Connector(config_for(edge, protocol=rung, grace_period="3m"), Upstreams())
        await connector.start()
        await ready(connector)
        client = await open_socket(edge)
        connection = edge.guests.connections[0]
        stopping = asyncio.create_task(connector.stop())
        async with asyncio.timeout(TIMEOUT):
            while "draining" not in edge.guests.told:
                await echo(client, b"still here")
        await echo(client, b"and here")
        assert connection.available_streams == 0
        assert not stopping.done()
        client.transport.close()
        async with asyncio.timeout(TIMEOUT):
            await stopping


@requirement("connector:stop-grace")
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_stream_that_does_not_end_is_cut_off_when_grace_is_over(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with loopback_edge(tmp_path) as edge:
        connector = Connector(config_for(edge, protocol=rung, grace_period="200ms"), Upstreams())
        await connector.start()
        await ready(connector)
        client = await open_socket(edge)
        async with asyncio.timeout(TIMEOUT):
            await connector.stop()
        assert await client.ended() is not None
        assert fields(caplog, "Streams were cut off at the end of the grace period")


@requirement("connector:token-rotated")
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.slow
async def test_a_rotated_token_in_the_file_serves_new_registrations_and_live_ones_stay(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(tunnel_token() + "\n")
    async with loopback_edge(tmp_path) as edge:
        config = config_for(edge, protocol=rung, token=None, token_file=token_file)
        async with serve(config, Upstreams()) as connector:
            await ready(connector)
            client = await open_socket(edge)
            edge.guests.secret = OTHER_SECRET  # rotated at the edge: the live connection stays
            await echo(client, b"alive")
            assert connector.ready_connections == 1
            edge.guests.connections[0].close()
            await edge.guests.wait_refused(1)  # the old token is of no use for a new registration
            token_file.write_text(tunnel_token(OTHER_SECRET))
            (connection,) = await edge.guests.wait(1)
            assert connection.request.secret == OTHER_SECRET
            assert fields(caplog, "The token file changed; new registrations use it")


@requirement("connector:archived")
@pytest.mark.parametrize("rung", RUNGS)
async def test_an_archived_tunnel_is_refused_in_one_line_and_without_haste(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with loopback_edge(tmp_path) as edge, serve(config_for(edge, protocol=rung), Upstreams()) as connector:
        await ready(connector)
        edge.guests.refusal = "the tunnel has been archived"
        edge.guests.connections[0].close()
        (line,) = await wait_logged(caplog, "The edge refused the connection")
        assert line["error"] == "the tunnel has been archived"
        assert connector.ready_connections == 0
        pauses = await wait_logged(caplog, "Retrying connection", 2)
        assert float(str(pauses[1]["in"]).removesuffix("s")) >= 2.0


@requirement("connector:wrong-token")
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_wrong_token_is_one_clear_line_and_no_hot_loop(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with loopback_edge(tmp_path) as edge:
        config = config_for(edge, protocol=rung, token=tunnel_token(OTHER_SECRET), ha_connections=4)
        async with serve(config, Upstreams()) as connector:
            await edge.guests.wait_refused(1)
            (line,) = await wait_logged(caplog, "The edge refused the connection")
            assert line["error"] == "Unauthorized: Invalid tunnel secret"
            (pause,) = await wait_logged(caplog, "Retrying connection")
            assert float(str(pause["in"]).removesuffix("s")) >= 2.0
            assert edge.guests.refused == 1  # the other three wait for the first
            assert connector.ready_connections == 0
    secrets = [tunnel_token(OTHER_SECRET), OTHER_SECRET.decode(), str(OTHER_SECRET)]
    for record in caplog.records:
        assert not [secret for secret in secrets if secret in str(vars(record))]


@requirement("connector:wrong-ca")
@pytest.mark.parametrize("rung", RUNGS)
async def test_a_wrong_ca_is_one_clear_line_and_no_hot_loop(
    rung: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other-ca.pem"
    other.write_bytes(throwaway_ca("another CA").certificate_pem)
    async with loopback_edge(tmp_path) as edge:
        async with serve(config_for(edge, protocol=rung, cacert=other, ha_connections=4), Upstreams()):
            (line,) = await wait_logged(caplog, "Unable to establish connection with the edge")
            assert "certificate" in str(line["error"])
            assert "\n" not in str(line["error"])
            (pause,) = await wait_logged(caplog, "Retrying connection")
            assert float(str(pause["in"]).removesuffix("s")) >= 0.5
            assert len(fields(caplog, "Unable to establish connection with the edge")) == 1
        assert not edge.guests.requests


@requirement("connector:token-reread")
@pytest.mark.slow
async def test_a_token_file_that_vanishes_is_a_line_and_not_an_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(tunnel_token())
    async with loopback_edge(tmp_path) as edge:
        config = config_for(edge, protocol="http2", token=None, token_file=token_file)
        async with serve(config, Upstreams()) as connector:
            await ready(connector)
            token_file.unlink()
            edge.guests.connections[0].close()
            (line,) = await wait_logged(caplog, "The tunnel token cannot be used")
            assert "no such file" in str(line["error"])
            token_file.write_text(tunnel_token())
            await ready(connector)
