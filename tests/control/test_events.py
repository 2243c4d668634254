"""What edges and gateways tell, and what an operator reads of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.control import EDGE_KEY, ControlThread, SteppedClock, Tenant
from tests.support.federation import ok

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
    assert tenant.control.run(tenant.control.operations.events.connected([tunnel, "other"])) == {tunnel: 1}


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


def test_calls_and_bytes_are_summed_per_minute(tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    call = {"kind": "call", "fields": {"duration_ms": 20, "bytes_in": 5, "bytes_out": 7, "error": False}}
    failed = {"kind": "call", "fields": {"duration_ms": 90.7, "error": True}}
    later = {"kind": "traffic", "time": NOW.replace(minute=31).isoformat(), "fields": {"bytes_out": 100}}
    for _ in range(2):
        tell(tenant, tunnel, call, failed, later)
    window = {"since": "2026-08-01T09:00:00Z", "until": "2026-08-01T10:00:00+00:00"}
    with tenant.as_operator() as http:
        points = ok(http.get(f"/admin/v1/tunnels/{tunnel}/traffic", params=window))["data"]
        calls = ok(http.get("/admin/v1/events", params={"tunnel_id": tunnel, "kind": "call"}))["data"]
        assert http.get(f"/admin/v1/tunnels/{tunnel}/traffic", params={"since": "0"}).status_code == 400
        assert ok(http.get(f"/admin/v1/tunnels/{tunnel}/traffic"))["data"] == []
    sums = {"calls": 4, "errors": 2, "bytes_in": 10, "bytes_out": 14, "duration_ms": 220, "slowest_ms": 90}
    assert points[0] == {"time": "2026-08-01T09:30:00.000000Z"} | sums
    assert (points[1]["bytes_out"], points[1]["calls"]) == (200, 0)
    assert len(calls) == 4


def test_one_organization_does_not_see_anothers_events(control: ControlThread, tenant: Tenant) -> None:
    tunnel = new_tunnel(tenant)
    tell(tenant, tunnel, connection("connector_registered", 0))
    with control.new_tenant().as_operator() as other:
        assert tunnel not in other.get("/admin/v1/events").text
        assert other.get("/admin/v1/events", params={"tunnel_id": tunnel}).status_code == 404
