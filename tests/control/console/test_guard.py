"""Who may see and change what at the console, and what tricks do not work."""

from __future__ import annotations

import re

import httpx2
import pytest

from qanat.control.operations.authentication import digest
from qanat.control.store.tables import AccessTokenRow
from tests.support.console import Person, sign_in, text_of
from tests.support.control import ControlThread, Tenant, plain_client
from tests.support.requirements import requirement


def browser(control: ControlThread) -> httpx2.Client:
    return plain_client(base_url=control.url)


def tunnel_of(person: Person) -> str:
    """The id of somebody's only tunnel."""
    found = re.search(r"tnl_[0-9A-Za-z]+", person.get("/tunnels").text)
    assert found is not None
    return found[0]


def test_without_a_session_every_page_leads_to_the_sign_in(control: ControlThread) -> None:
    with browser(control) as client:
        for path in ("/tunnels", "/tunnels/tnl_01x"):
            answer = client.get(f"/console{path}")
            assert (answer.status_code, answer.headers["location"]) == (
                303,
                f"/console/sign-in?return_to=/console{path}",
            )
        answer = client.post("/console/tunnels", data={"name": "x"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")


def test_an_operator_signs_in_and_out(control: ControlThread) -> None:
    tenant = control.new_tenant()
    with browser(control) as client:
        wrong = client.post("/console/sign-in", data={"credential": "guess"})
        assert wrong.status_code == 401
        assert "not known here" in wrong.text
        answer = client.post("/console/sign-in", data={"credential": tenant.operator})
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        page = client.get("/console/tunnels")
        assert page.status_code == 200
        value = client.cookies["qanat"]
        csrf = page.text.split('name="csrf" value="')[1][:64]
        assert client.post("/console/sign-out", data={"csrf": csrf}).status_code == 303
        client.cookies.set("qanat", value)
        assert client.get("/console/tunnels").status_code == 303, "the old cookie must be dead"


@requirement("console:revoked")
def test_a_session_ends_with_the_credential_that_opened_it(control: ControlThread) -> None:
    tenant = control.new_tenant()
    with browser(control) as client:
        client.post("/console/sign-in", data={"credential": tenant.operator})
        assert client.get("/console/tunnels").status_code == 200
        assert client.get("/console/tunnels/tnl_01x/live").status_code == 404
        control.run(revoke(tenant))
        assert client.get("/console/tunnels").status_code == 303
        assert client.post("/console/tunnels", data={"name": "x"}).status_code == 303


@requirement("console:revoked")
def test_a_live_stream_ends_with_its_session(control: ControlThread) -> None:
    tenant = control.new_tenant()
    person = sign_in(tenant)
    person.post("/tunnels", name="staging")
    tunnel_id = tunnel_of(person)
    with person.client.stream("GET", f"/console/tunnels/{tunnel_id}/live", timeout=30) as stream:
        lines = stream.iter_lines()
        assert any(line.startswith("data: ") for line in lines)
        control.run(control.operations.console_sessions.end(person.client.cookies["qanat"]))
        assert all(not line.startswith("data: ") for line in lines), "it ended, and said nothing more"


async def revoke(tenant: Tenant) -> None:
    async with tenant.control.operations.context.database.write() as session:
        row = await session.get_one(AccessTokenRow, digest(tenant.operator))
        row.revoked_at = tenant.control.operations.context.now()


def test_an_api_key_does_not_open_the_console(control: ControlThread) -> None:
    tenant = control.new_tenant()
    with browser(control) as client:
        token = tenant.mint({"workspace:manage_tunnels"})
        assert client.post("/console/sign-in", data={"credential": token}).status_code == 403


@requirement("console:fixation")
def test_signing_in_never_keeps_a_session_id_that_somebody_planted(control: ControlThread) -> None:
    tenant = control.new_tenant()
    with browser(control) as client:
        client.cookies.set("qanat", "planted")
        answer = client.post("/console/sign-in", data={"credential": tenant.operator})
        assert "planted" not in answer.headers["set-cookie"]


def test_a_session_is_no_api_credential(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    value = person.client.cookies["qanat"]
    headers = {"authorization": f"Bearer {value}", "anthropic-version": "2023-06-01"}
    assert person.client.get("/v1/tunnels", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Content-Type": "text/plain"}]
)
@requirement("console:csrf")
def test_a_form_of_another_site_changes_nothing(control: ControlThread, headers: dict[str, str]) -> None:
    person = sign_in(control.new_tenant())
    assert person.post("/tunnels", headers, name="forged").status_code in (400, 403)
    assert "forged" not in person.get("/tunnels").text


@requirement("console:csrf")
def test_a_form_without_the_sessions_token_changes_nothing(control: ControlThread) -> None:
    tenant = control.new_tenant()
    person, other = sign_in(tenant), sign_in(tenant)
    for csrf in ("", "0" * 64, other.csrf(), "\u00fc" * 64):
        assert person.post("/tunnels", csrf=csrf, name="forged").status_code == 403
    assert "forged" not in person.get("/tunnels?show=all").text


@requirement("console:viewer", "setup:39")
def test_a_viewer_sees_and_changes_nothing(control: ControlThread) -> None:
    tenant = control.new_tenant()
    manager, viewer = sign_in(tenant), sign_in(tenant, "viewer")
    manager.post("/tunnels", name="staging")
    tunnel_id = tunnel_of(manager)
    for path in ("/tunnels", f"/tunnels/{tunnel_id}"):
        page = viewer.get(path)
        assert page.status_code == 200
        assert "staging" in page.text
        assert "<form" not in page.text.split("<main")[1], "no action may be offered"
    csrf = viewer.csrf()
    for path in (
        "/tunnels",
        *(f"/tunnels/{tunnel_id}/{end}" for end in ("token", "rotate", "archive", "certificates")),
    ):
        answer = viewer.post(path, csrf=csrf, name="x", confirm=tunnel_id)
        assert answer.status_code == 403, path
        assert "eyJ" not in answer.text


def test_another_organizations_tunnel_does_not_exist(control: ControlThread) -> None:
    mine, theirs = sign_in(control.new_tenant()), sign_in(control.new_tenant())
    theirs.post("/tunnels", name="theirs")
    tunnel_id = tunnel_of(theirs)
    assert mine.get(f"/tunnels/{tunnel_id}").status_code == 404
    assert mine.post(f"/tunnels/{tunnel_id}/token").status_code == 404


@requirement("console:escape")
def test_names_are_shown_never_run(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    name = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    person.post("/tunnels", name=name)
    page = person.get("/tunnels")
    assert "<script>alert" not in page.text
    assert "<img src=x" not in page.text
    assert name in text_of(page).replace("  ", " ") or "alert(1)" in text_of(page)


@requirement("console:headers")
def test_every_answer_carries_the_strict_headers(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    for answer in (person.get("/tunnels"), person.get("/tunnels/tnl_01nope"), person.post("/tunnels", csrf="x")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_message_comes_from_our_own_list_only(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    assert "evil text" not in person.get("/tunnels?done=evil+text").text
    assert "Signed out." in person.client.get("/console/sign-in?done=signed-out").text


def test_a_zero_byte_is_refused_wherever_it_is_sent(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    person.post("/tunnels", name="staging")
    assert person.get("/audit?target=%00").status_code == 400
    assert person.get("/identity/rules/%00/connect").status_code == 404
    for path in ("/keys/%00/status", "/keys/tokens/%00/revoke"):
        assert person.post(path, status="archived").status_code == 404, path
    nul = "a\0b"
    remove = f"/tunnels/{tunnel_of(person)}/watches/remove"
    for path in ("/tunnels", "/keys", "/identity/accounts", "/workspace", remove):
        answer = person.post(path, name=nul, kind="api", workspace=nul, route=nul, path=nul)
        assert answer.status_code == 400, path


@requirement("console:csrf")
@pytest.mark.parametrize("origin", ["null", "http://[", "https://[::1"])
def test_an_origin_that_is_none_changes_nothing(control: ControlThread, origin: str) -> None:
    person = sign_in(control.new_tenant())
    assert person.post("/tunnels", {"Origin": origin}, name="forged").status_code == 403
    assert person.client.post("/console/sign-in", headers={"Origin": origin}, data={}).status_code == 403
