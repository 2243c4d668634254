"""What edges and gateways tell, and what an operator reads of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.control import EDGE_KEY, ControlThread, SteppedClock, Tenant
from tests.support.federation import ok
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow

NOW = datetime(2026, 8, 1, 9, 30, 20, tzinfo=UTC)


def tell(tenant: Tenant, tunnel_id: str, *events: dict[str, Any]) -> None:
    batch = [{"time": NOW.isoformat(), "node": "edge-1", "tunnel_id": tunnel_id} | event for event in events]
    with tenant.http(EDGE_KEY) as edge:
        assert edge.post("/internal/v1/events", json={"events": batch}).status_code == 204


def connection(kind: str, index: int, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "fields": {"connector_id": "c1", "conn_index": index, "protocol": "quic"} | fields}


def connectors(tenant: Tenant, tunnel: str) -> list[int]:
    with tenant.as_operator() as http:
        return [item["conn_index"] for item in ok(http.get(f"/admin/v1/tunnels/{tunnel}/connectors"))["data"]]


def new_tunnel(tenant: Tenant) -> str:
    with tenant.http() as http:
        return str(ok(http.post("/v1/tunnels"))["id"])


def test_connectors_come_and_go(tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    tell(tenant, tunnel, *(connection("connector_registered", index) for index in (0, 1, 1)))
    assert sorted(connectors(tenant, tunnel)) == [0, 1]
    tell(tenant, tunnel, connection("connector_lost", 0, reason="x\0" * 2000))
    assert connectors(tenant, tunnel) == [1]
    with tenant.as_operator() as http:
        page = ok(http.get("/admin/v1/events", params={"tunnel_id": tunnel, "limit": "1"}))
        rest = ok(http.get("/admin/v1/events", params={"tunnel_id": tunnel, "page": page["next_page"]}))
        refused = http.get("/admin/v1/tunnels/tnl_01unknown/connectors")
    assert [event["kind"] for event in page["data"] + rest["data"]] == ["connector_lost"] + ["connector_registered"] * 3
    assert len(page["data"][0]["fields"]["reason"]) <= 1024
    assert refused.status_code == 404
    found = tenant.control.run(tenant.control.operations.connectors.of_tunnels([tunnel, "other"]))
    assert [(id, [each.conn_index for each in connections]) for id, connections in found.items()] == [(tunnel, [1])]


def test_a_connector_nobody_speaks_of_is_gone(start_control: Callable[..., ControlThread]) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()
    tunnel = new_tunnel(tenant)
    tell(tenant, tunnel, connection("connector_registered", 0))
    clock.advance(minutes=4)
    tell(tenant, tunnel, {"kind": "connectors_snapshot", "fields": {"connections": 1}})
    clock.advance(minutes=4)
    assert connectors(tenant, tunnel) == [0]
    clock.advance(minutes=2)
    assert connectors(tenant, tunnel) == []
    clock.advance(days=15)
    tenant.control.run(tenant.control.operations.housekeeping.prune())
    with tenant.as_operator() as http:
        assert ok(http.get("/admin/v1/events"))["data"] == []


def silent(tenant: Tenant, tunnel: str) -> list[tuple[str, bool]]:
    """The node of each connection, and whether the node is silent."""
    with tenant.as_operator() as http:
        found = ok(http.get(f"/admin/v1/tunnels/{tunnel}/connectors"))["data"]
    return [(item["node"], item["silent_since"] is not None) for item in found]


@requirement("edge:lease")
def test_a_node_that_falls_silent_is_told_within_seconds(start_control: Callable[..., ControlThread]) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()
    tunnel = new_tunnel(tenant)
    alive = {"kind": "node_alive", "tunnel_id": None, "fields": {"instance": "a"}}
    tell(tenant, tunnel, alive, connection("connector_registered", 0, instance="a"))
    tell(
        tenant,
        tunnel,
        alive | {"node": "edge-2"},
        connection("connector_registered", 1, instance="a") | {"node": "edge-2"},
    )
    clock.advance(seconds=10)
    tell(tenant, tunnel, alive)
    assert silent(tenant, tunnel) == [("edge-1", False), ("edge-2", True)]
    tell(tenant, tunnel, alive | {"node": "edge-2"})
    assert silent(tenant, tunnel) == [("edge-1", False), ("edge-2", False)]
    clock.advance(minutes=6)
    assert silent(tenant, tunnel) == []
    with tenant.as_operator() as http:
        assert {event["kind"] for event in ok(http.get("/admin/v1/events"))["data"]} == {"connector_registered"}


@requirement("edge:lease")
def test_connections_of_a_killed_node_do_not_live_on_in_the_one_that_replaced_it(
    start_control: Callable[..., ControlThread],
) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()
    tunnel = new_tunnel(tenant)
    before, after = ({"kind": "node_alive", "tunnel_id": None, "fields": {"instance": name}} for name in "ab")
    tell(tenant, tunnel, before, connection("connector_registered", 0, instance="a"))
    clock.advance(seconds=7)
    assert silent(tenant, tunnel) == [("edge-1", True)]
    tell(tenant, tunnel, after, {"kind": "connectors_snapshot"})
    assert silent(tenant, tunnel) == []
    tell(tenant, tunnel, after, connection("connector_registered", 0, instance="b"))
    assert silent(tenant, tunnel) == [("edge-1", False)]


def test_calls_come_from_gateways_and_bytes_from_edges(tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    call = {"kind": "call", "fields": {"duration_ms": 20, "bytes_in": 5, "bytes_out": 7, "error": False}}
    failed = {"kind": "call", "fields": {"duration_ms": 90.7, "error": True}}
    carried = {"kind": "traffic", "fields": {"bytes_in": 50, "bytes_out": 70, "streams_opened": 1, "streams_open": 3}}
    later = {"kind": "traffic", "time": NOW.replace(minute=31).isoformat(), "fields": {"bytes_out": 100}}
    for _ in range(2):
        tell(tenant, tunnel, call, failed, carried, later)
    tell(tenant, tunnel, {"kind": "traffic", "fields": {"streams_open": 2}})
    window = {"since": "2026-08-01T09:00:00Z", "until": "2026-08-01T10:00:00+00:00"}
    with tenant.as_operator() as http:
        points = ok(http.get(f"/admin/v1/tunnels/{tunnel}/traffic", params=window))["data"]
        calls = ok(http.get("/admin/v1/events", params={"tunnel_id": tunnel, "kind": "call"}))["data"]
        assert http.get(f"/admin/v1/tunnels/{tunnel}/traffic", params={"since": "0"}).status_code == 400
        assert ok(http.get(f"/admin/v1/tunnels/{tunnel}/traffic"))["data"] == []
    sums = {"calls": 4, "errors": 2, "bytes_in": 100, "bytes_out": 140, "duration_ms": 220, "streams_opened": 2}
    assert points[0] == {"time": "2026-08-01T09:30:00.000000Z", "slowest_ms": 90, "streams_open": 3} | sums
    assert (points[1]["bytes_out"], points[1]["calls"]) == (200, 0)
    assert len(calls) == 4


def traffic(tenant: Tenant, tunnel: str) -> list[dict[str, Any]]:
    window = {"since": "2026-08-01T09:00:00Z", "until": "2026-08-01T10:00:00Z"}
    with tenant.as_operator() as http:
        return list(ok(http.get(f"/admin/v1/tunnels/{tunnel}/traffic", params=window))["data"])


def test_open_streams_are_added_over_nodes(tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    for node, streams in (("edge-1", 3), ("edge-2", 4), ("edge-1", 2)):
        tell(tenant, tunnel, {"kind": "traffic", "node": node, "fields": {"streams_open": streams}})
    later = {"kind": "traffic", "time": NOW.replace(minute=31).isoformat(), "fields": {"streams_open": 5}}
    tell(tenant, tunnel, later)
    assert [point["streams_open"] for point in traffic(tenant, tunnel)] == [7, 5]
    whole = timedelta(hours=1)
    start = NOW.replace(minute=0, second=0)
    [point] = tenant.control.run(
        tenant.control.operations.events.traffic(tenant.actor, tunnel, start, start + whole, whole)
    )
    assert point.streams_open == 7


def test_a_batch_whose_answer_was_lost_counts_once_however_often_it_is_told(
    start_control: Callable[..., ControlThread],
) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()
    tunnel = new_tunnel(tenant)
    event = {"kind": "traffic", "time": NOW.isoformat(), "node": "edge-1", "tunnel_id": tunnel}
    batch = {"id": "b" * 32, "events": [event | {"fields": {"bytes_in": 5, "streams_opened": 1}}]}
    with tenant.http(EDGE_KEY) as edge:
        for _ in range(3):
            assert edge.post("/internal/v1/events", json=batch).status_code == 204
        assert edge.post("/internal/v1/events", json=batch | {"id": "c" * 32}).status_code == 204
        assert edge.post("/internal/v1/events", json=batch | {"id": "d" * 65}).status_code == 400
        assert [(point["bytes_in"], point["streams_opened"]) for point in traffic(tenant, tunnel)] == [(10, 2)]
        clock.advance(hours=2)
        tenant.control.run(tenant.control.operations.housekeeping.prune())
        assert tenant.control.run(tenant.control.dump())["event_batches"] == []


def first_times(tenant: Tenant, tunnel: str) -> list[tuple[str, str, object]]:
    """Kind, node and `known` of each event, oldest first."""
    with tenant.as_operator() as http:
        found = ok(http.get("/admin/v1/events", params={"tunnel_id": tunnel}))["data"]
    return [(event["kind"], event["node"], event["fields"].get("known")) for event in reversed(found)]


@requirement("edge:first-times")
def test_what_is_new_is_decided_over_all_nodes_and_restarts(tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    first, second = ({"kind": "tunnel_first_use", "node": node} for node in ("edge-1", "edge-2"))
    at_home = {"version": "1", "arch": "linux_amd64", "address": "192.0.2.1:1000"}
    elsewhere = at_home | {"address": "192.0.2.2:1000"}
    here, there = (connection("connector_registered", 0, **fields) for fields in (at_home, elsewhere))
    tell(tenant, tunnel, here, first)
    tell(tenant, tunnel, here | {"node": "edge-2"}, second, there)
    tell(tenant, tunnel, first, here)
    assert first_times(tenant, tunnel) == [
        ("connector_registered", "edge-1", False),
        ("tunnel_first_use", "edge-1", None),
        ("connector_registered", "edge-2", True),
        ("connector_registered", "edge-1", False),
        ("connector_registered", "edge-1", True),
    ]


@requirement("edge:first-times")
def test_a_fingerprint_not_shown_for_long_is_new_again(start_control: Callable[..., ControlThread]) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()
    tunnel = new_tunnel(tenant)
    story = ({"kind": "tunnel_first_use"}, connection("connector_registered", 0, version="1"))
    tell(tenant, tunnel, *story)
    clock.advance(days=91)
    tenant.control.run(tenant.control.operations.housekeeping.prune())
    tell(tenant, tunnel, *story)
    assert first_times(tenant, tunnel) == [("connector_registered", "edge-1", False)]


def test_one_organization_does_not_see_anothers_events(control: ControlThread, tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    tell(tenant, tunnel, connection("connector_registered", 0))
    with control.new_tenant().as_operator() as other:
        assert tunnel not in other.get("/admin/v1/events").text
        assert other.get("/admin/v1/events", params={"tunnel_id": tunnel}).status_code == 404


@pytest.mark.parametrize(
    "odd",
    [
        {"time": "2026-08-01T09:30:20"},
        {"time": "9999-12-31T23:59:59-23:00"},
        {"time": "0001-01-01T00:00:00Z"},
        {"kind": "call", "fields": {"duration_ms": float("inf")}},
        {"fields": {"streams_open": float("nan")}},
        {"node": "edge\0"},
        {"tunnel_id": "tnl_\0"},
        {"tunnel_id": "t" * 200},
    ],
)
def test_what_no_database_could_hold_is_refused_for_good(tenant: Tenant, odd: dict[str, Any]) -> None:
    """A node tells a batch again until it hears a 204 or a 400: after a 500 it would never tell of anything else."""
    event = {"time": NOW.isoformat(), "node": "edge-1", "kind": "connector_refused", "tunnel_id": new_tunnel(tenant)}
    body = json.dumps({"events": [event | odd]})
    with tenant.http(EDGE_KEY) as edge:
        answer = edge.post("/internal/v1/events", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    with tenant.as_operator() as http:
        ok(http.get("/admin/v1/events"))


def test_a_connection_number_is_one_that_can_be_kept(tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    tell(tenant, tunnel, connection("connector_registered", 2**70))
    assert connectors(tenant, tunnel) == [0]
