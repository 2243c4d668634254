"""Watched routes at the console, and the verdicts gateways tell of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.console import Person, sign_in, text_of
from tests.support.control import EDGE_KEY, GATEWAY_KEY, ControlThread, SteppedClock, Tenant
from tests.support.pki import throwaway_ca
from tests.support.requirements import requirement


def new_tunnel(person: Person) -> str:
    return person.post("/tunnels", name="staging").url.path.removeprefix("/console/tunnels/")


def tell(tenant: Tenant, tunnel_id: str, kind: str, **fields: Any) -> None:
    fields = {"route": "wiki", "path": "/mcp", **fields}
    event = {"time": "2026-08-01T09:30:20Z", "node": "gw-1", "tunnel_id": tunnel_id, "kind": kind, "fields": fields}
    with tenant.http(GATEWAY_KEY) as gateway:
        assert gateway.post("/internal/v1/events", json={"events": [event]}).status_code == 204


def to_probe(tenant: Tenant, tunnel_id: str) -> list[tuple[str, str]]:
    with tenant.http(GATEWAY_KEY) as gateway:
        watches = gateway.get("/internal/v1/watches").json()["watches"]
    return [(watch["route"], watch["path"]) for watch in watches if watch["tunnel_id"] == tunnel_id]


@requirement("console:watch")
def test_a_person_adds_and_removes_a_route(control: ControlThread) -> None:
    tenant = control.new_tenant()
    person = sign_in(tenant)
    tunnel_id = new_tunnel(person)
    assert "Watched." in text_of(person.post(f"/tunnels/{tunnel_id}/watches", route="Wiki", path="mcp"))
    assert to_probe(tenant, tunnel_id) == [("wiki", "/mcp")]
    person.post(f"/tunnels/{tunnel_id}/watches/remove", route="wiki", path="/mcp")
    assert to_probe(tenant, tunnel_id) == []
    assert "tunnel.unwatch" in text_of(person.get(f"/audit?target={tunnel_id}"))


@pytest.mark.parametrize(("route", "path"), [("", "/mcp"), ("-a", "/mcp"), ("a b", "/"), ("wiki", "/a?b"), ("w", "/ü")])
def test_what_is_no_route_is_refused(control: ControlThread, route: str, path: str) -> None:
    person = sign_in(control.new_tenant())
    assert person.post(f"/tunnels/{new_tunnel(person)}/watches", route=route, path=path).status_code == 400


@requirement("console:watch")
def test_a_call_that_went_well_teaches_its_route_and_one_that_failed_does_not(control: ControlThread) -> None:
    tenant = control.new_tenant()
    person = sign_in(tenant)
    tunnel_id = new_tunnel(person)
    tell(tenant, tunnel_id, "call", route="typo", error="no_route", hop="proxy")
    tell(tenant, tunnel_id, "call", route="wiki", error=None)
    tell(tenant, tunnel_id, "call", route='"><script>', error=None)
    assert to_probe(tenant, tunnel_id) == [("wiki", "/mcp")]


def test_at_most_twenty_routes_are_watched(control: ControlThread) -> None:
    tenant = control.new_tenant()
    person = sign_in(tenant)
    tunnel_id = new_tunnel(person)
    for number in range(25):
        tell(tenant, tunnel_id, "call", route=f"r{number}")
    assert len(to_probe(tenant, tunnel_id)) == 20
    assert person.post(f"/tunnels/{tunnel_id}/watches", route="more", path="/").status_code == 400


def test_another_organization_watches_nothing_here_and_an_edge_asks_in_vain(control: ControlThread) -> None:
    tenant = control.new_tenant()
    tunnel_id = new_tunnel(sign_in(tenant))
    other, viewer = sign_in(control.new_tenant()), sign_in(tenant, "viewer")
    assert other.post(f"/tunnels/{tunnel_id}/watches", route="wiki", path="/").status_code == 404
    assert other.post(f"/tunnels/{tunnel_id}/watches/remove", route="wiki", path="/").status_code == 404
    assert viewer.post(f"/tunnels/{tunnel_id}/watches", route="wiki", path="/").status_code == 403
    assert to_probe(tenant, tunnel_id) == []
    with tenant.http(EDGE_KEY) as edge:
        assert edge.get("/internal/v1/watches").status_code == 403


@requirement("console:worst")
def test_the_worst_route_is_the_tunnels_badge_and_an_old_verdict_is_none(
    start_control: Callable[..., ControlThread],
) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()
    person = sign_in(tenant)
    tunnel_id = new_tunnel(person)
    person.post(f"/tunnels/{tunnel_id}/certificates", pem=throwaway_ca().certificate_pem.decode())
    tell(tenant, tunnel_id, "connector_registered", connector_id="c1", conn_index=0)
    tell(tenant, tunnel_id, "call")
    assert "Unknown" in text_of(person.get("/tunnels"))
    tell(tenant, tunnel_id, "canary", ok=True, hop=None, tunnel_ms=4.5)
    assert "Connected" in text_of(person.get("/tunnels"))
    planted = "<script>alert(1)</script>"
    tell(tenant, tunnel_id, "canary", ok=False, hop="upstream", error=planted)
    page = person.get(f"/tunnels/{tunnel_id}")
    assert "Down Upstream" in text_of(page)
    assert planted not in page.text
    assert "Down" in text_of(person.get("/tunnels"))
    clock.advance(seconds=11)
    assert "Unknown Gateway: no fresh word about wiki/mcp" in text_of(person.get(f"/tunnels/{tunnel_id}"))


def test_only_a_changed_verdict_is_kept_as_an_event(control: ControlThread) -> None:
    tenant = control.new_tenant()
    tunnel_id = new_tunnel(sign_in(tenant))
    tell(tenant, tunnel_id, "call")
    for ok in (True, True, False, False, True):
        tell(tenant, tunnel_id, "canary", ok=ok, hop=None if ok else "upstream")
    with tenant.as_operator() as http:
        events = http.get("/admin/v1/events", params={"tunnel_id": tunnel_id, "kind": "canary"}).json()["data"]
    assert [event["fields"]["ok"] for event in events] == [True, False, True]
