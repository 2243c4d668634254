"""Keys and the audit trail at the console."""

from __future__ import annotations

import pytest

from tests.support.console import Person, sign_in, text_of
from tests.support.control import ControlThread


@pytest.fixture
def person(control: ControlThread) -> Person:
    return sign_in(control.new_tenant())


def test_a_key_is_shown_once_and_can_be_turned_off_and_archived(person: Person) -> None:
    created = person.post("/keys", kind="api", name="agents").text
    value = created.split('class="secret">')[1].split("<")[0]
    assert value.startswith("sk-ant-api03-")
    page = person.get("/keys").text
    assert value not in page
    action = next(part.split('"')[0] for part in page.split('action="/console')[1:] if "/status" in part)
    assert "Inactive" in text_of(person.post(action, status="inactive"))
    assert person.post(action, status="whatever").status_code == 400
    assert "agents" not in text_of(person.post(action, status="archived"))


def test_a_tunnels_key_lives_as_long_as_chosen_and_can_be_revoked(person: Person) -> None:
    created = person.post("/keys", kind="tunnels", name="setup", lifetime="15m").text
    value = created.split('class="secret">')[1].split("<")[0]
    headers = {
        "authorization": f"Bearer {value}",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "mcp-tunnels-2026-06-22",
    }
    assert person.client.get("/v1/tunnels", headers=headers).status_code == 200
    action = next(part.split('"')[0] for part in created.split('action="/console')[1:] if "/revoke" in part)
    person.post(action)
    assert person.client.get("/v1/tunnels", headers=headers).status_code == 401
    assert person.post("/keys", kind="tunnels", name="x", lifetime="9y").status_code == 400


def test_the_trail_names_who_did_what_from_where_and_why(person: Person) -> None:
    tunnel_id = person.post("/tunnels", name="staging").url.path.removeprefix("/console/tunnels/")
    person.post(f"/tunnels/{tunnel_id}/rotate", reason="quarterly <b>rotation</b>")
    answer = person.get(f"/audit?target={tunnel_id}")
    shown = text_of(answer)
    assert "user_ada" in shown
    assert "127.0.0.1" in shown
    assert "quarterly <b>rotation</b>" in shown
    assert "<b>rotation" not in answer.text
    assert person.get("/audit?page=nonsense").status_code == 400
