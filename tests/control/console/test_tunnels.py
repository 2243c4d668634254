"""The tunnels' pages: create, look, reveal, rotate, certificates, archive."""

from __future__ import annotations

import pytest

from qanat.control.store.tables import TunnelRow
from tests.support.console import Person, sign_in, text_of
from tests.support.control import ControlThread
from tests.support.pki import throwaway_ca, throwaway_server


@pytest.fixture
def person(control: ControlThread) -> Person:
    return sign_in(control.new_tenant())


def new_tunnel(person: Person, name: str = "staging") -> str:
    answer = person.post("/tunnels", name=name)
    assert "Tunnel created" in answer.text
    return answer.url.path.removeprefix("/console/tunnels/")


def test_a_created_tunnel_is_listed_and_has_a_page(person: Person) -> None:
    tunnel_id = new_tunnel(person)
    assert "staging" in text_of(person.get("/tunnels"))
    page = text_of(person.get(f"/tunnels/{tunnel_id}"))
    assert tunnel_id in page
    assert "Certificates 0 of 2" in page


def test_a_bad_name_and_the_eleventh_tunnel_are_explained(person: Person) -> None:
    assert person.post("/tunnels", name="").status_code == 400
    for number in range(10):
        new_tunnel(person, f"t{number}")
    refused = person.post("/tunnels", name="one too many")
    assert refused.status_code == 400
    assert "maximum of 10 non-archived Tunnels" in text_of(refused)


def test_the_token_is_shown_on_demand_and_changes_when_rotated(person: Person) -> None:
    tunnel_id = new_tunnel(person)
    assert "eyJ" not in person.get(f"/tunnels/{tunnel_id}").text
    first = person.post(f"/tunnels/{tunnel_id}/token").text
    assert "eyJ" in first
    assert "Token rotated" in person.post(f"/tunnels/{tunnel_id}/rotate", reason="leak").text
    second = person.post(f"/tunnels/{tunnel_id}/token").text
    token = first.split('class="secret">')[1].split("<")[0]
    assert token not in second


def test_certificates_fill_their_slots_and_are_revoked(person: Person) -> None:
    tunnel_id = new_tunnel(person)
    pem = throwaway_ca().certificate_pem.decode().replace("\n", "\r\n")  # as browsers send text areas
    assert "Certificate registered" in person.post(f"/tunnels/{tunnel_id}/certificates", pem=pem).text
    page = person.get(f"/tunnels/{tunnel_id}")
    assert "Certificates 1 of 2" in text_of(page)
    actions = [part.split('"')[0] for part in page.text.split('action="/console')[1:]]
    path = next(action for action in actions if action.endswith("/revoke"))
    revoked = text_of(person.post(path))
    assert "Revoked" in revoked
    assert "Certificates 0 of 2" in revoked


@pytest.mark.parametrize("kind", ["key", "two", "large", "leaf", "garbage", "empty"])
def test_what_is_no_ca_certificate_is_refused_with_its_reason(person: Person, kind: str) -> None:
    ca = throwaway_ca()
    wrong = {
        "key": (ca.certificate_pem + ca.key_pem).decode(),
        "two": (ca.certificate_pem * 2).decode(),
        "large": ca.certificate_pem.decode() + " " * 9000 + "x",
        "leaf": throwaway_server(ca).certificate_pem.decode(),
        "garbage": "hello",
        "empty": "",
    }
    answer = person.post(f"/tunnels/{new_tunnel(person)}/certificates", pem=wrong[kind])
    assert answer.status_code == 400
    assert "ca_certificate_pem" in text_of(answer)
    assert "PRIVATE KEY" not in answer.text


def test_archiving_asks_for_the_id_and_is_for_good(person: Person) -> None:
    tunnel_id = new_tunnel(person)
    assert person.post(f"/tunnels/{tunnel_id}/archive", confirm="yes").status_code == 400
    assert "Tunnel archived" in person.post(f"/tunnels/{tunnel_id}/archive", confirm=tunnel_id).text
    assert tunnel_id not in person.get("/tunnels").text
    assert tunnel_id in person.get("/tunnels?show=archived").text
    page = person.get(f"/tunnels/{tunnel_id}").text
    assert "Show token" not in page


def test_archived_tunnels_do_not_push_live_ones_off_the_list(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    tunnel_id = new_tunnel(person, "oldest")
    control.run(add_archived(control, tunnel_id, 1001))
    assert "oldest" in text_of(person.get("/tunnels"))
    everything = text_of(person.get("/tunnels?show=all"))
    assert "oldest" in everything
    assert everything.count("Archived") > 900


async def add_archived(control: ControlThread, tunnel_id: str, count: int) -> None:
    """So many that were created later than this one."""
    context = control.operations.context
    async with context.database.write() as session:
        model = await session.get_one(TunnelRow, tunnel_id)
        columns = {column.key: getattr(model, column.key) for column in TunnelRow.__table__.columns}
        now = context.now()
        for number in range(count):
            id = context.new_id("tnl")
            own = {
                "id": id,
                "uuid": f"{id}-uuid",
                "domain": f"{id}.example".lower(),
                "created_at": now,
                "archived_at": now,
            }
            own |= {"display_name": f"ci-{number}", "token_id": id}
            session.add(TunnelRow(**{**columns, **own}))
