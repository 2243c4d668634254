"""What edges and gateways get: records, the stream of changes, and who may ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.support.control import EDGE_KEY, ControlThread, Tenant, plain_client
from tests.support.federation import ok


@contextmanager
def following(tenant: Tenant, **query: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The stream of changes."""
    with tenant.http(EDGE_KEY) as http, http.stream("GET", "/internal/v1/changes", params=query) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        yield (json.loads(line) for line in response.iter_lines())


def changes_of(changes: Iterator[dict[str, Any]], tunnel_id: str) -> dict[str, Any]:
    return next(change for change in changes if change["tunnel_id"] == tunnel_id)


def test_a_record_holds_what_an_edge_needs_and_no_secret(tenant: Tenant) -> None:
    with tenant.http() as http, tenant.http(EDGE_KEY) as edge:
        tunnel = ok(http.post("/v1/tunnels"))
        token = ok(http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token"))["tunnel_token"]
        record = ok(edge.get("/internal/v1/tunnels", params={"domain": tunnel["domain"]}))
        assert token not in json.dumps(record)
        assert (record["id"], record["workspace_id"]) == (tunnel["id"], tenant.workspace_id)
        ok(http.post(f"/v1/tunnels/{tunnel['id']}/archive"))
        assert ok(edge.get("/internal/v1/tunnels", params={"uuid": record["uuid"]}))["archived"] is True
        assert edge.get("/internal/v1/tunnels", params={"domain": "nowhere.example"}).status_code == 404
        assert edge.get("/internal/v1/tunnels").status_code == 400
        assert edge.get("/internal/v1/tunnels", params={"uuid": "x"}).status_code == 400


def test_service_keys_have_roles(tenant: Tenant) -> None:
    body = {"credential": "x"}
    with tenant.http(EDGE_KEY) as edge, tenant.http(tenant.operator) as operator, tenant.bare() as nobody:
        assert edge.post("/internal/v1/authenticate", json=body).status_code == 403
        for http in (operator, nobody):
            refused = http.get("/internal/v1/tunnels", params={"domain": "x"})
            assert refused.status_code == 401
            assert refused.headers["x-qanat-service-key"] == "refused"
        assert edge.get("/v1/tunnels").status_code == 401


def test_every_change_is_pushed_in_order(tenant: Tenant, ca_pem: str) -> None:
    with following(tenant) as changes, tenant.http() as http:
        first = next(changes)
        assert first["kind"] == "heartbeat"
        tunnel = ok(http.post("/v1/tunnels"))
        path = f"/v1/tunnels/{tunnel['id']}"
        certificate = ok(http.post(f"{path}/certificates", json={"ca_certificate_pem": ca_pem}))
        ok(http.post(f"{path}/rotate_token"))
        ok(http.post(f"{path}/certificates/{certificate['id']}/archive"))
        ok(http.post(f"{path}/archive"))
        seen = [changes_of(changes, tunnel["id"]) for _ in range(5)]
    assert [change["cursor"] for change in seen] == list(range(first["cursor"] + 1, first["cursor"] + 6))
    assert {change["domain"] for change in seen} == {tunnel["domain"]}
    with following(tenant, after=str(seen[1]["cursor"])) as changes:
        assert next(changes)["kind"] == "heartbeat"
        assert next(changes)["cursor"] == seen[2]["cursor"]


def test_a_cursor_from_another_life_resets(tenant: Tenant) -> None:
    with following(tenant, after=str(10**12)) as changes:
        assert next(changes)["kind"] == "reset"


@pytest.mark.slow
def test_an_idle_stream_has_a_heartbeat(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.control.operations.changes.HEARTBEAT_INTERVAL", 0.01)
    with following(tenant) as changes:
        assert [next(changes)["kind"] for _ in range(3)] == ["heartbeat"] * 3


def test_the_end_of_the_server_ends_the_stream(start_control: Callable[..., ControlThread]) -> None:
    control = start_control()
    with following(control.new_tenant()) as changes:
        next(changes)
        control.__exit__(None, None, None)
        assert list(changes) == []


def test_the_store_out_of_reach_is_a_503(start_control: Callable[..., ControlThread]) -> None:
    control = start_control()
    tenant = control.new_tenant()

    async def break_store() -> None:
        from qanat.control.store.database import Database

        control.operations.context.database = Database("postgresql://nobody@127.0.0.1:1/nothing")

    with tenant.http() as http:
        control.run(break_store())
        refused = http.get("/v1/tunnels")
    assert refused.status_code == 503
    assert refused.json()["error"] == {"type": "api_error", "message": "storage is unavailable, try again"}


def test_requests_are_counted_on_an_address_of_their_own(start_control: Callable[..., ControlThread]) -> None:
    control = start_control({"metrics_addr": "127.0.0.1:0"})
    tenant = control.new_tenant()
    with tenant.http() as http:
        ok(http.get("/v1/tunnels"))
        http.get("/v1/nothing")
        assert http.get("/metrics").status_code == 404
    assert control.server.metrics_address is not None
    host, port = control.server.metrics_address
    with plain_client(base_url=f"http://{host}:{port}") as http:
        counted = http.get("/metrics").text
        assert http.get("/healthz").status_code == 200
    assert 'qanat_control_requests_total{operation="list_tunnels",status="200"} 1.0' in counted
    assert 'qanat_control_requests_total{operation="none",status="404"} 2.0' in counted


def test_bad_events_are_refused(tenant: Tenant) -> None:
    with tenant.http(EDGE_KEY) as edge:
        assert edge.post("/internal/v1/events", content=b"{").status_code == 400
        event = {"time": "2026-01-01T00:00:00Z", "kind": "traffic", "node": "n"}
        assert edge.post("/internal/v1/events", json={"events": [event] * 1001}).status_code == 400
        assert edge.post("/internal/v1/events", json={"events": [event]}).status_code == 204


def test_a_large_body_is_cut_off(tenant: Tenant) -> None:
    with tenant.http() as http:
        response = http.post(
            "/v1/tunnels", content=iter([b"x" * 65536] * 4), headers={"content-type": "application/json"}
        )
    assert response.status_code == 413
    assert isinstance(response, httpx2.Response)
