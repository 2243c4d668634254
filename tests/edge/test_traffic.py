"""What the edge tells of traffic: every byte once, on the node of the client, and nothing of tunnels that are quiet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qanat.api import event_backlog
from qanat.api.internal import Event
from qanat.clock import SystemClock
from qanat.edge.events import EventQueue
from qanat.edge.metrics import Metrics
from qanat.edge.server import Edge
from qanat.edge.traffic import Moved, Traffic
from qanat.ids import TunnelID
from tests.edge.test_cluster import knows, nodes, until
from tests.support.edge import TIMEOUT, DictDirectory, EchoProxy, OperatorFiles, client, connect, make_tunnel
from tests.support.redis import redis_server
from tests.support.requirements import requirement

A, B = TunnelID("tnl_a"), TunnelID("tnl_b")


@requirement("edge:traffic")
def test_each_byte_is_told_once() -> None:
    traffic = Traffic()
    traffic.opened(A)
    traffic.opened(A)
    traffic.opened(B)
    assert traffic.take([(A, 10, 100), (A, 1, 2), (B, 0, 0)]) == {A: Moved(11, 102, 2, 2), B: Moved(0, 0, 1, 1)}
    assert traffic.take([(A, 15, 100), (A, 1, 2), (B, 0, 0)]) == {A: Moved(5, 0, 0, 2)}
    traffic.ended(A, 20, 130)
    assert traffic.take([(A, 1, 2), (B, 0, 0)]) == {A: Moved(5, 30, 0, 1)}
    traffic.ended(A, 1, 2)
    traffic.ended(B, 7, 8)
    assert traffic.take([]) == {A: Moved(), B: Moved(7, 8)}
    assert traffic.take([]) == {}


def test_a_tunnel_that_ended_is_forgotten_and_starts_afresh() -> None:
    traffic = Traffic()
    traffic.opened(A)
    traffic.ended(A, 1, 2)
    assert traffic.take([]) == {A: Moved(1, 2, 1, 0)}
    traffic.opened(A)
    assert traffic.take([(A, 3, 4)]) == {A: Moved(3, 4, 1, 1)}


async def told(directory: DictDirectory, bytes_in: int) -> list[Event]:
    """The traffic events, once they tell of so many bytes from clients."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            found = [event for event in directory.events if event.kind == "traffic"]
            if sum(int(event.fields["bytes_in"] or 0) for event in found) >= bytes_in:
                return found
            await directory.event("traffic")
            await asyncio.sleep(0.01)


@requirement("edge:traffic")
async def test_an_edge_tells_what_a_tunnel_carried_as_it_stops(
    edge: Edge, files: OperatorFiles, directory: DictDirectory
) -> None:
    tunnel = directory.add(make_tunnel())
    connection = await connect(edge.connector_address, files, tunnel.token, EchoProxy())
    async with client(edge, files) as guest:
        assert (await guest.upgrade(tunnel.host())).status == 101
        await guest.echo(bytes(5_000))
    await until(lambda: len(edge.sessions) == 0)
    connection.close()
    await edge.close()
    (event,) = [event for event in directory.events if event.kind == "traffic"]
    assert event.tunnel_id == tunnel.record.id
    assert int(event.fields["bytes_in"] or 0) >= 5_000
    assert int(event.fields["bytes_out"] or 0) >= 5_000
    assert (event.fields["streams_opened"], event.fields["streams_open"]) == (1, 0)


@pytest.mark.slow
@requirement("edge:traffic")
async def test_a_relayed_stream_is_told_of_by_the_clients_node_alone(
    files: OperatorFiles, directory: DictDirectory, tmp_path: Path
) -> None:
    tunnel = directory.add(make_tunnel())
    async with redis_server(tmp_path) as redis, nodes(2, files, directory, redis) as (a, b):
        connection = await connect(b.connector_address, files, tunnel.token, EchoProxy())
        await until(lambda: knows(a, tunnel.record.uuid))
        async with client(a, files) as guest:
            assert (await guest.upgrade(tunnel.host())).status == 101
            await guest.echo(bytes(5_000))
            for node in (a, b):
                node.sessions.tell_traffic()
            found = await told(directory, 5_000)
        assert {event.node for event in found} == {"edge-1"}
        connection.close()


def test_traffic_waits_when_the_queue_is_half_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_backlog, "MAX_QUEUE", 4)
    queue = EventQueue("n", SystemClock(), Metrics())
    queue.emit("connectors_snapshot")
    assert not queue.crowded
    queue.emit("connectors_snapshot")
    assert queue.crowded


def test_a_full_queue_drops_the_oldest_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_backlog, "MAX_QUEUE", 2)
    metrics = Metrics()
    queue = EventQueue("n", SystemClock(), metrics)
    for _ in range(5):
        queue.emit("connectors_snapshot")
    assert metrics.registry.get_sample_value("qanat_edge_events_dropped_total") == 3
