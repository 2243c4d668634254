"""The playground at the console: who may use it, what the gateway is asked, and what is shown and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.console import Person, sign_in, text_of
from tests.support.control import GATEWAY_KEY, ControlThread, Tenant, control_config, plain_client, recorded_logs
from tests.support.http_stub import Asked, http_stub
from tests.support.planted import plant
from tests.support.requirements import requirement

SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "Words to look for"},
        "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 5},
        "exact": {"type": "boolean"},
        "order": {"enum": ["newest", 7]},
        "filter": {"type": "object"},
    },
    "required": ["query"],
}
TIMES = [
    {"hop": "edge", "what": "connect", "ms": 3.5},
    {"hop": "connector", "what": "tunnel", "ms": 2.0},
    {"hop": "proxy", "what": "inner_tls", "ms": 1.0},
    {"hop": "upstream", "what": "tools/call", "ms": 8.5},
]


@dataclass
class FakeGateway:
    """Keeps what it is asked; answers `outcome`, or `status` alone."""

    outcome: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    ticket: str = ""
    principal: tuple[int, dict[str, Any]] = (0, {})
    control_url: str = ""

    def hear(self, asked: Asked) -> tuple[int, bytes]:
        self.asked.append(json.loads(asked.body))
        self.ticket = asked.authorization.removeprefix("Bearer ")
        self.principal = self.identify()
        if self.status != 200:
            return self.status, json.dumps({"error": {"message": "<b>no</b>"}}).encode()
        return 200, json.dumps(self.outcome).encode()

    def identify(self) -> tuple[int, dict[str, Any]]:
        """What the control plane says of the ticket."""
        headers = {"authorization": f"Bearer {GATEWAY_KEY}"}
        url = f"{self.control_url}/internal/v1/authenticate"
        with plain_client(headers=headers) as http:
            answer = http.post(url, json={"credential": self.ticket})
        return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeGateway]:
    gateway = FakeGateway()
    with http_stub(gateway.hear) as port:
        gateway.control_url = f"http://127.0.0.1:{port}"
        yield gateway


@pytest.fixture(scope="module")
def console(gateway: FakeGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlThread]:
    settings = {"playground": {"gateway_url": gateway.control_url}}
    config = control_config(tmp_path_factory.mktemp("playground"), console=settings)
    with ControlThread(config) as thread:
        gateway.control_url = thread.url
        yield thread


@pytest.fixture
def tenant(console: ControlThread, gateway: FakeGateway) -> Tenant:
    gateway.status, gateway.asked = 200, []
    tool = {"name": "search", "description": "Find pages", "input_schema": SCHEMA}
    gateway.outcome = {"tools": [tool], "result": ["42 pages"], "times": TIMES}
    return console.new_tenant()


def place(person: Person) -> dict[str, Any]:
    """The form's fields that name a server."""
    tunnel_id = person.post("/tunnels", name="staging").url.path.removeprefix("/console/tunnels/")
    return {"tunnel": tunnel_id, "route": "wiki", "path": "/mcp"}


@requirement("console:playground")
def test_tools_are_listed_and_called_and_each_hops_time_is_shown(tenant: Tenant, gateway: FakeGateway) -> None:
    person = sign_in(tenant)
    where = place(person)
    listed = person.post("/playground", **where)
    assert "Find pages" in text_of(listed)
    for name in ("string:query", "integer:limit", "boolean:exact", "choice:order", "json:filter"):
        assert f'name="argument:{name}"' in listed.text
    typed: dict[str, Any] = {
        "argument:string:query": "a b",
        "argument:integer:limit": "3",
        "argument:boolean:exact": "true",
    }
    typed |= {"argument:choice:order": "7", "argument:json:filter": '{"year": 2026}'}
    answer = person.post("/playground", **where, tool="search", **typed)
    text = text_of(answer)
    assert "42 pages" in text
    assert "edge connected to the edge (TCP, outer TLS) 3.5 ms" in text
    assert "upstream called the tool 8.5 ms all 15.0 ms" in text
    assert 'value="a b"' in answer.text, "what was typed stays"
    listing, call = gateway.asked
    assert "tool" not in listing
    assert call["url"].startswith("https://wiki.")
    assert call["arguments"] == {"query": "a b", "limit": 3, "exact": True, "order": 7, "filter": {"year": 2026}}


def test_what_is_left_empty_is_left_out_and_json_wins_over_fields(tenant: Tenant, gateway: FakeGateway) -> None:
    person = sign_in(tenant)
    where = place(person)
    empty: dict[str, Any] = {"argument:string:query": "", "argument:integer:limit": ""}
    person.post("/playground", **where, tool="search", **empty)
    whole: dict[str, Any] = {"arguments": '{"query": "x"}', "argument:string:query": "y"}
    person.post("/playground", **where, tool="search", **whole)
    assert [asked["arguments"] for asked in gateway.asked] == [{}, {"query": "x"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"argument:integer:limit": "many"},
        {"argument:integer:limit": "1.5"},
        {"argument:integer:limit": "true"},
        {"argument:integer:limit": "1e999"},
        {"argument:number:x": '"1"'},
        {"argument:json:filter": "{"},
        {"arguments": "[1]"},
        {"arguments": "[" * 5000},
        {"arguments": '{"a": NaN}'},
        {"arguments": '{"a": "\\ud800"}'},
        {"route": "not a route"},
        {"path": "/mcp?x"},
        {"tool": "a\nb"},
        {"tool": "a" * 300},
        {"token": "two words\r\nx-evil: 1"},
        {"tunnel": "tnl_01nope"},
    ],
)
def test_what_makes_no_sense_is_explained_and_asks_nobody(
    tenant: Tenant, gateway: FakeGateway, fields: dict[str, Any]
) -> None:
    person = sign_in(tenant)
    answer = person.post("/playground", **{**place(person), "tool": "search", **fields})
    assert answer.status_code in (400, 404)
    assert 'role="alert"' in answer.text
    assert gateway.asked == []


@requirement("console:viewer")
def test_a_viewer_gets_no_form_and_calls_nothing_by_a_crafted_request(tenant: Tenant, gateway: FakeGateway) -> None:
    viewer, where = sign_in(tenant, "viewer"), place(sign_in(tenant))
    page = viewer.get("/playground")
    assert page.status_code == 200
    assert "<form" not in page.text.split("<main")[1]
    assert viewer.post("/playground", **where, tool="search").status_code == 403
    assert gateway.asked == []


@requirement("console:csrf")
@pytest.mark.parametrize(
    "forged", [{"csrf": "0" * 64}, {"csrf": "\u00fc"}, {"headers": {"Origin": "https://evil.example"}}]
)
def test_another_site_calls_nothing(tenant: Tenant, gateway: FakeGateway, forged: dict[str, Any]) -> None:
    person = sign_in(tenant)
    assert person.post("/playground", forged.pop("headers", None), **place(person), **forged).status_code == 403
    assert person.get("/playground?tool=search&tunnel=x&route=wiki").status_code == 200, "looking calls nothing"
    assert gateway.asked == []


def test_another_organizations_tunnel_cannot_be_called(
    tenant: Tenant, console: ControlThread, gateway: FakeGateway
) -> None:
    where = place(sign_in(console.new_tenant()))
    assert sign_in(tenant).post("/playground", **where).status_code == 404
    assert gateway.asked == []


@requirement("console:escape")
def test_what_servers_say_is_shown_never_run(tenant: Tenant, gateway: FakeGateway) -> None:
    planted = '"></textarea><script>alert(1)</script>'
    schema = {
        "properties": {
            planted: {"type": "string", "description": planted, "default": planted},
            "j": {"default": planted},
        }
    }
    tool = {"name": f"t{planted}", "description": planted, "input_schema": {"type": "object", **schema}}
    gateway.outcome = {"tools": [tool], "result": [planted], "times": TIMES, "is_error": True}
    person = sign_in(tenant)
    where = place(person)
    called: dict[str, Any] = {"tool": tool["name"], "arguments": json.dumps({"x": planted})}
    fields: dict[str, Any]
    for fields in ({}, called):
        page = person.post("/playground", **where, **fields)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "alert(1)" in text_of(page)
    gateway.outcome = {"hop": "upstream", "error": planted}
    assert "<script>alert" not in person.post("/playground", **where).text
    gateway.status = 429
    assert "<b>no</b>" not in person.post("/playground", **where).text
    assert "<script>alert" not in person.get(f"/audit?target={where['tunnel']}").text


@requirement("console:playground:private")
def test_the_trail_names_tool_and_route_and_nothing_else_is_kept(
    tenant: Tenant, console: ControlThread, gateway: FakeGateway
) -> None:
    person = sign_in(tenant)
    where = place(person)
    secrets: dict[str, Any] = {"token": plant("bearer"), "argument:string:query": plant("argument")}
    gateway.outcome["result"] = [plant("result")]
    with recorded_logs() as recorder:
        answer = person.post("/playground", **where, tool="search", **secrets)
    assert gateway.outcome["result"][0] in answer.text
    assert gateway.asked[-1]["authorization_token"] == secrets["token"]
    assert secrets["token"] not in answer.text
    kept = repr(console.run(console.dump())) + "\n".join(recorder.lines)
    for secret in (*secrets.values(), gateway.outcome["result"][0], gateway.ticket):
        assert secret not in kept
    trail = text_of(person.get(f"/audit?target={where['tunnel']}"))
    assert "playground.call route wiki path /mcp tool search" in trail
    person.post("/playground", **where)
    assert "playground.list route wiki path /mcp" in text_of(person.get(f"/audit?target={where['tunnel']}"))


@requirement("console:playground:private")
def test_the_ticket_stands_for_the_person_opens_nothing_else_and_dies_with_the_answer(
    tenant: Tenant, gateway: FakeGateway
) -> None:
    person = sign_in(tenant)
    person.post("/playground", **place(person))
    status, principal = gateway.principal
    assert status == 200
    assert principal["kind"] == "playground"
    assert (principal["organization_id"], principal["workspace_id"]) == (tenant.organization_id, tenant.workspace_id)
    assert (principal["subject"], principal["scopes"]) == ("user_ada", ["console:playground"])
    assert gateway.identify()[0] == 401


def test_a_ticket_is_no_credential_of_the_api(tenant: Tenant) -> None:
    ticket = tenant.mint({"console:playground"}, kind="playground")
    with tenant.http(ticket) as http:
        assert http.get("/v1/tunnels").status_code == 403
        assert http.get("/v1/organizations/workspaces").status_code == 403
    with tenant.bare() as http:
        assert http.post("/console/sign-in", data={"credential": ticket}).status_code == 403


@pytest.mark.parametrize("outcome", [b"{", b'{"times": 1}', b"x" * (3 << 20)])
def test_a_gateway_that_answers_nonsense_is_named(tenant: Tenant, outcome: bytes) -> None:
    person = sign_in(tenant)
    where = place(person)
    with http_stub(lambda _: (200, outcome)) as port:
        playground = tenant.control.operations.playground
        before, playground.gateway_url = playground.gateway_url, f"http://127.0.0.1:{port}"
        answer = person.post("/playground", **where)
    down = person.post("/playground", **where)
    playground.gateway_url = before
    assert (answer.status_code, down.status_code) == (502, 502)
    assert "gateway" in text_of(answer)
    assert "does not answer" in text_of(down)


def test_without_a_gateway_the_page_says_what_to_set(control: ControlThread) -> None:
    person = sign_in(control.new_tenant())
    answer = person.post("/playground", **place(person))
    assert answer.status_code == 502
    assert "console.playground.gateway_url" in text_of(answer)


@pytest.mark.slow
@requirement("console:limits")
def test_a_person_who_calls_too_often_has_to_wait(tenant: Tenant, gateway: FakeGateway, tmp_path: Any) -> None:
    config = control_config(tmp_path, limits={"playground_calls_per_minute": 1})
    with ControlThread(config) as thread:
        person = sign_in(thread.new_tenant())
        where = place(person)
        assert [person.post("/playground", **where).status_code for _ in range(2)] == [502, 429]
        same_name = sign_in(thread.new_tenant())
        assert same_name.post("/playground", **place(same_name)).status_code == 502, "of another organization"
