"""The picker of tunnels for agents: which are offered, and what their URLs are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.console import Person, sign_in, text_of
from tests.support.control import ControlThread, SteppedClock
from tests.support.pki import throwaway_ca
from tests.support.requirements import requirement


def tunnel(person: Person, name: str, *, certified: bool = True) -> str:
    tunnel_id = person.post("/tunnels", name=name).url.path.removeprefix("/console/tunnels/")
    if certified:
        person.post(f"/tunnels/{tunnel_id}/certificates", pem=throwaway_ca().certificate_pem.decode())
    return tunnel_id


@requirement("setup:37:picker")
def test_only_tunnels_with_an_active_certificate_are_offered(control: ControlThread) -> None:
    tenant = control.new_tenant()
    person = sign_in(tenant)
    assert "No tunnel of this workspace" in text_of(person.get("/agents"))
    tunnel(person, "bare", certified=False)
    archived, revoked = tunnel(person, "gone"), tunnel(person, "revoked")
    person.post(f"/tunnels/{archived}/archive", confirm=archived)
    page = person.get(f"/tunnels/{revoked}").text
    (action,) = [part.split('"')[0] for part in page.split('action="/console')[1:] if "/revoke" in part.split('"')[0]]
    person.post(action)
    tunnel(person, "whole")
    for visitor in (person, sign_in(tenant, "viewer")):
        shown = visitor.get("/agents").text
        assert [name for name in ("bare", "gone", "revoked", "whole") if name in shown] == ["whole"]
    assert "whole" not in sign_in(control.new_tenant()).get("/agents").text


@pytest.mark.slow
@requirement("setup:37:picker")
def test_a_tunnel_whose_certificates_have_all_run_out_is_not_offered(
    start_control: Callable[..., ControlThread],
) -> None:
    clock = SteppedClock()
    person = sign_in(start_control({"console": {"session_lifetime": "99999h"}}, clock=clock).new_tenant())
    tunnel(person, "staging")
    assert "staging" in person.get("/agents").text
    clock.advance(days=3650)
    assert "staging" not in person.get("/agents").text


@pytest.mark.parametrize(
    ("route", "path", "ending"),
    [
        ("wiki", "mcp", "wiki.{}/mcp"),
        ("Wiki", "/mcp", "wiki.{}/mcp"),
        ("", "", "{}"),
        ("wiki", "/", "wiki.{}"),
        ("a.b", "x/y", "a.b.{}/x/y"),
    ],
)
def test_the_url_is_made_of_subdomain_domain_and_path(
    control: ControlThread, route: str, path: str, ending: str
) -> None:
    tenant = control.new_tenant()
    person = sign_in(tenant)
    tunnel_id = tunnel(person, "staging")
    domain = control.run(control.operations.tunnels.retrieve(tenant.actor, tunnel_id)).domain
    page = person.client.get("/console/agents", params={"tunnel": tunnel_id, "route": route, "path": path})
    assert f">https://{ending.format(domain)}<" in page.text
    assert f'"url": "https://{ending.format(domain)}"' in text_of(page)


@pytest.mark.parametrize(
    ("route", "path"), [("-wiki", ""), ("wi ki", ""), ("wiki.", ""), ("wiki", "a?b"), ("w\u00fc", "")]
)
def test_a_label_that_is_none_is_refused_in_place(control: ControlThread, route: str, path: str) -> None:
    person = sign_in(control.new_tenant())
    tunnel_id = tunnel(person, "staging")
    page = person.client.get("/console/agents", params={"tunnel": tunnel_id, "route": route, "path": path})
    assert page.status_code == 200
    assert "must be" in text_of(page)
    assert "mcp_servers" in text_of(page)
    assert "https://" not in text_of(page)


@requirement("console:escape")
def test_what_is_typed_is_shown_never_run(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    planted = '"><script>alert(1)</script>'
    tunnel_id = tunnel(person, planted)
    page = person.client.get("/console/agents", params={"tunnel": tunnel_id, "route": planted, "path": planted})
    assert "<script>alert" not in page.text
    assert "<script>alert" not in person.client.get("/console/agents", params={"tunnel": tunnel_id}).text
