"""The Tunnels API as the official Python SDK and bare HTTP see it."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import pytest
from sqlalchemy import delete

from qanat.control.store.tables import AuditRow, CertificateRow, TunnelRow
from tests.support.control import ControlThread, Tenant, plain_client, recorded_logs
from tests.support.requirements import requirement

JSON = {"content-type": "application/json"}


class Wire:
    """An SDK client, and the requests it sent."""

    def __init__(self, tenant: Tenant, token: str | None = None, **options: Any) -> None:
        self.requests: list[httpx2.Request] = []
        self.responses: list[httpx2.Response] = []
        hooks: dict[str, list[Any]] = {"request": [self.requests.append], "response": [self.responses.append]}
        self._http = plain_client(event_hooks=hooks)
        credential = options or {"auth_token": token or tenant.mint()}
        self.client = anthropic.Anthropic(base_url=tenant.url, http_client=self._http, **credential)
        self.tunnels = self.client.beta.tunnels

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def wire(tenant: Tenant) -> Iterator[Wire]:
    made = Wire(tenant)
    yield made
    made.close()


@requirement("tunnels-api:1")
def test_create_sends_an_empty_object_and_answers_a_bare_tunnel(wire: Wire) -> None:
    tunnel = wire.tunnels.create()
    assert (wire.requests[0].method, wire.requests[0].url.path) == ("POST", "/v1/tunnels")
    assert wire.requests[0].content == b"{}"
    assert (tunnel.type, tunnel.display_name, tunnel.archived_at) == ("tunnel", None, None)
    assert tunnel._request_id is not None
    assert tunnel._request_id.startswith("req_")


@requirement("tunnels-api:2")
def test_a_name_has_at_most_255_characters(wire: Wire) -> None:
    assert wire.tunnels.create(display_name="ü" * 255).display_name == "ü" * 255
    sent = len(wire.requests)
    with pytest.raises(anthropic.BadRequestError, match="display_name"):
        wire.tunnels.create(display_name="x" * 256)
    assert len(wire.requests) == sent + 1


@requirement("tunnels-api:3")
@pytest.mark.parametrize(
    "body",
    [
        '{"display_name": ""}',
        '{"display_name": 5}',
        '{"name": "x"}',
        "[]",
        "{",
        '{"display_name": "\\u0000"}',
        '{"display_name": "\\ud800"}',
        '{"display_name": NaN}',
        "[" * 100_00,
        "\xff",
    ],
)
def test_a_wrong_body_is_refused(tenant: Tenant, body: str) -> None:
    with tenant.http() as http:
        response = http.post("/v1/tunnels", content=body.encode("latin-1"), headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert tenant.count_tunnels() == 0


def test_an_unknown_field_is_named(tenant: Tenant) -> None:
    with tenant.http() as http:
        response = http.post("/v1/tunnels", json={"name": "x"})
    assert response.json()["error"]["message"].startswith("name: ")


@requirement("tunnels-api:4")
def test_the_eleventh_tunnel_is_refused_until_one_is_archived(wire: Wire) -> None:
    tunnels = [wire.tunnels.create() for _ in range(10)]
    sent = len(wire.requests)
    with pytest.raises(anthropic.BadRequestError, match="maximum of 10 non-archived Tunnels") as refused:
        wire.tunnels.create()
    assert refused.value.error_code == "tunnel_limit_exceeded"
    assert len(wire.requests) == sent + 1
    wire.tunnels.archive(tunnels[0].id)
    wire.tunnels.create()


@requirement("tunnels-api:5")
def test_of_twenty_parallel_creates_at_nine_one_succeeds(tenant: Tenant) -> None:
    with tenant.http() as http:
        for _ in range(9):
            http.post("/v1/tunnels").raise_for_status()
        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(lambda _: http.post("/v1/tunnels").status_code, range(20)))
    assert sorted(statuses) == [200] + [400] * 19
    assert tenant.count_tunnels() == 10


@requirement("tunnels-api:6")
def test_a_list_is_read_page_by_page_newest_first(wire: Wire) -> None:
    made = [wire.tunnels.create().id for _ in range(5)]
    sent = len(wire.requests)
    assert [tunnel.id for tunnel in wire.tunnels.list(limit=2)] == made[::-1]
    first, second, _third = wire.requests[sent:]
    assert first.url.params["limit"] == second.url.params["limit"] == "2"
    assert "page" not in first.url.params
    assert second.url.params["page"].startswith("page_")


@requirement("tunnels-api:7")
def test_a_tunnel_created_between_two_pages_is_on_neither(wire: Wire) -> None:
    made = [wire.tunnels.create().id for _ in range(3)]
    page = wire.tunnels.list(limit=2)
    wire.tunnels.create()
    seen = [tunnel.id for tunnel in page.data] + [tunnel.id for tunnel in page.get_next_page().data]
    assert seen == made[::-1]


@requirement("tunnels-api:8")
@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "a"},
        {"limit": "1.5"},
        {"page": "junk"},
        {"page": "page_AAAA"},
        {"page": "page_" + "é"},
        {"include_archived": "yes"},
    ],
)
def test_a_wrong_query_is_refused(tenant: Tenant, query: dict[str, str]) -> None:
    with tenant.http() as http:
        assert http.get("/v1/tunnels", params=query).status_code == 400


@requirement("tunnels-api:8")
def test_a_cursor_belongs_to_its_filters_and_its_organization(control: ControlThread, tenant: Tenant) -> None:
    with tenant.http() as http:
        for _ in range(2):
            http.post("/v1/tunnels")
        page = http.get("/v1/tunnels", params={"limit": "1"}).json()["next_page"]
        assert http.get("/v1/tunnels", params={"page": page}).status_code == 200
        assert http.get("/v1/tunnels", params={"limit": "1000"}).status_code == 200
        assert http.get("/v1/tunnels", params={"page": page, "include_archived": "1"}).status_code == 400
    with control.new_tenant().http() as other:
        refused = other.get("/v1/tunnels", params={"page": page})
    assert refused.json()["error"]["message"] == "page: invalid cursor"


@requirement("tunnels-api:9")
def test_archived_tunnels_are_listed_only_when_asked_for(wire: Wire) -> None:
    tunnel = wire.tunnels.create()
    wire.tunnels.archive(tunnel.id)
    assert wire.tunnels.list().data == []
    assert [item.id for item in wire.tunnels.list(include_archived=True)] == [tunnel.id]
    assert wire.tunnels.retrieve(tunnel.id).archived_at is not None


@requirement("tunnels-api:10")
def test_archiving_takes_the_certificates_along_and_repeats_harmlessly(wire: Wire, ca_pem: str) -> None:
    tunnel = wire.tunnels.create()
    wire.tunnels.certificates.create(tunnel.id, ca_certificate_pem=ca_pem)
    archived = wire.tunnels.archive(tunnel.id)
    assert wire.tunnels.archive(tunnel.id).archived_at == archived.archived_at
    listed = wire.tunnels.certificates.list(tunnel.id, include_archived=True).data
    assert [item.archived_at for item in listed] == [archived.archived_at]
    assert wire.tunnels.certificates.list(tunnel.id).data == []


@requirement("tunnels-api:11")
def test_an_empty_body_equals_an_empty_object(tenant: Tenant) -> None:
    with tenant.http() as http:
        id = http.post("/v1/tunnels").json()["id"]
        response = http.post(f"/v1/tunnels/{id}/archive", content=b"", headers=JSON)
    assert response.request.headers["content-length"] == "0"
    assert response.status_code == 200


@requirement("tunnels-api:12")
def test_reveal_gives_the_same_token_again(wire: Wire) -> None:
    tunnel = wire.tunnels.create()
    first, second = (wire.tunnels.reveal_token(tunnel.id) for _ in range(2))
    assert (first.id, first.tunnel_token) == (second.id, second.tunnel_token)
    fields = json.loads(base64.b64decode(first.tunnel_token, validate=True))
    assert sorted(fields) == ["a", "s", "t"]
    uuid.UUID(fields["t"])
    assert len(base64.b64decode(fields["s"], validate=True)) == 32
    assert first.id == "ttkn_" + hashlib.sha256(first.tunnel_token.encode()).hexdigest()
    assert wire.responses[-1].headers["cache-control"] == "no-store"


@requirement("tunnels-api:13")
def test_rotate_changes_the_secret_only_and_tells_why(tenant: Tenant, wire: Wire) -> None:
    tunnel = wire.tunnels.create()
    before = wire.tunnels.reveal_token(tunnel.id)
    after = wire.tunnels.rotate_token(tunnel.id, reason="leak")
    old, new = (json.loads(base64.b64decode(token.tunnel_token)) for token in (before, after))
    assert before.id != after.id
    assert (old["a"], old["t"]) == (new["a"], new["t"])
    assert old["s"] != new["s"]
    assert wire.tunnels.reveal_token(tunnel.id).tunnel_token == after.tunnel_token
    with tenant.as_operator() as http:
        trail = http.get("/admin/v1/audit", params={"target_id": tunnel.id}).json()["data"]
    rotated = next(entry for entry in trail if entry["action"] == "tunnel.rotate_token")
    assert rotated["reason"] == "leak"
    assert rotated["details"] == {"token_id": after.id, "previous_token_id": before.id}
    assert rotated["request_id"] == after._request_id
    assert rotated["address"] == "127.0.0.1"


def test_parallel_rotations_each_get_a_value_of_their_own(tenant: Tenant) -> None:
    with tenant.http() as http:
        id = http.post("/v1/tunnels").json()["id"]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: http.post(f"/v1/tunnels/{id}/rotate_token").json()["id"], range(8)))
        assert len(set(answers)) == 8
        assert http.post(f"/v1/tunnels/{id}/reveal_token").json()["id"] in answers


@requirement("tunnels-api:14")
def test_an_archived_tunnel_refuses_every_change(wire: Wire, ca_pem: str) -> None:
    tunnel = wire.tunnels.create()
    wire.tunnels.archive(tunnel.id)
    for attempt in (
        lambda: wire.tunnels.reveal_token(tunnel.id),
        lambda: wire.tunnels.rotate_token(tunnel.id),
        lambda: wire.tunnels.certificates.create(tunnel.id, ca_certificate_pem=ca_pem),
    ):
        with pytest.raises(anthropic.BadRequestError) as refused:
            attempt()
        assert refused.value.error_code == "tunnel_archived"


@requirement("tunnels-api:31")
def test_an_error_names_its_request(wire: Wire) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        wire.tunnels.retrieve("tnl_01unknown")
    body, headers = wire.responses[-1].json(), wire.responses[-1].headers
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert body["request_id"] == headers["request-id"] == missing.value.request_id


@pytest.mark.parametrize("id", ["x", "tnl_", "tnl_a-b", "tcrt_01abc", "tnl_" + "a" * 65, "%00"])
def test_a_malformed_id_is_unknown(tenant: Tenant, id: str) -> None:
    with tenant.http() as http:
        assert http.get(f"/v1/tunnels/{id}").status_code == 404


@requirement("tunnels-api:32")
def test_a_body_above_64_kib_is_too_large(wire: Wire) -> None:
    with pytest.raises(anthropic.APIStatusError) as refused:
        wire.tunnels.create(display_name="x" * 65 * 1024)
    assert (refused.value.status_code, refused.value.type) == (413, "request_too_large")
    assert type(refused.value).__name__ in ("ContentTooLargeError", "RequestTooLargeError")


def test_a_body_that_is_not_json_is_not_taken(tenant: Tenant) -> None:
    with tenant.http() as http:
        response = http.post("/v1/tunnels", content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415


@requirement("tunnels-api:33")
def test_wrong_methods_and_paths_are_answered_in_json(tenant: Tenant) -> None:
    with tenant.http() as http:
        wrong_method = http.delete("/v1/tunnels/tnl_01abc")
        wrong_path = http.get("/v1/tunnelz")
        both = http.put("/v1/tunnels")
    assert wrong_method.status_code == 405
    assert wrong_method.headers["allow"] == "GET"
    assert sorted(both.headers["allow"].split(", ")) == ["GET", "POST"]
    assert wrong_method.json()["error"]["type"] == "invalid_request_error"
    assert wrong_path.status_code == 404
    assert wrong_path.json()["error"]["type"] == "not_found_error"


@requirement("tunnels-api:34")
@pytest.mark.slow
def test_a_failure_before_the_commit_is_retried_into_one_tunnel(start_control: Callable[..., ControlThread]) -> None:
    failures = iter([True, True, False])

    def label() -> str:
        if next(failures):
            raise RuntimeError("the disk is on fire: do not tell anybody")
        return "abcd1234"

    tenant = start_control(make_label=label).new_tenant()
    wire = Wire(tenant)
    wire.tunnels.create()
    assert [response.status_code for response in wire.responses] == [500, 500, 200]
    assert wire.responses[0].read() == wire.responses[0].content
    assert "fire" not in wire.responses[0].text
    assert tenant.count_tunnels() == 1
    wire.close()


@pytest.mark.slow
@requirement("tunnels-api:37")
def test_a_label_never_comes_back_even_after_a_purge(start_control: Callable[..., ControlThread]) -> None:
    numbers = iter(range(10**6))
    control = start_control(
        {"limits": {"tunnels_per_organization": 2000, "requests_per_minute": 10**6}},
        make_label=lambda: f"l{next(numbers) // 3:07d}",
    )
    tenant = control.new_tenant()

    async def create(count: int) -> list[str]:
        return [(await control.operations.tunnels.create(tenant.actor)).domain for _ in range(count)]

    async def purge() -> None:
        async with control.operations.context.database.write() as session:
            await session.execute(delete(CertificateRow))
            await session.execute(delete(TunnelRow))

    domains = control.run(create(200))
    control.run(purge())
    numbers = iter(range(10**6))
    domains += control.run(create(800))
    assert len(set(domains)) == 1000


def test_rates_are_limited_per_credential(start_control: Callable[..., ControlThread]) -> None:
    limits = {"requests_per_minute": 3, "token_reads_per_minute": 1}
    tenant = start_control({"limits": limits}).new_tenant()
    with tenant.http() as http:
        id = http.post("/v1/tunnels").json()["id"]
        assert http.post(f"/v1/tunnels/{id}/reveal_token").status_code == 200
        limited = http.post(f"/v1/tunnels/{id}/reveal_token")
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) > 0
        assert limited.json()["error"]["type"] == "rate_limit_error"
        assert http.get("/v1/tunnels").status_code == 429
    with tenant.http() as another:
        assert another.get("/v1/tunnels").status_code == 200


def test_operators_have_a_rate_of_their_own_whose_refusals_are_logged_and_counted(
    start_control: Callable[..., ControlThread],
) -> None:
    limits = {"requests_per_minute": 1, "admin_requests_per_minute": 2}
    control = start_control({"limits": limits, "metrics_addr": "127.0.0.1:0"})
    tenant = control.new_tenant()
    with recorded_logs() as recorder, tenant.as_operator() as http:
        assert http.post("/v1/tunnels").status_code == 200
        first = [http.get(f"/admin/v1/{noun}").status_code for noun in ("api_keys", "audit", "events")]
        assert first == [200, 200, 429]
        limited = http.get("/admin/v1/access_tokens")
    assert (limited.status_code, limited.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(limited.headers["retry-after"]) > 0
    assert sum("rate limit exceeded {'limit': 'admin_requests'" in line for line in recorder.lines) == 2
    assert control.server.metrics_address is not None
    with plain_client() as scraper:
        counted = scraper.get("http://{}:{}/metrics".format(*control.server.metrics_address)).text
    assert 'qanat_control_rate_limited_total{limit="admin_requests"} 2.0' in counted


@requirement("tunnels-api:39")
async def test_the_asynchronous_client_does_the_same(tenant: Tenant, ca_pem: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=tenant.url, auth_token=tenant.mint()) as client:
        tunnels = client.beta.tunnels
        made = [await tunnels.create() for _ in range(3)]
        assert made[0].display_name is None
        assert [tunnel.id async for tunnel in tunnels.list(limit=2)] == [tunnel.id for tunnel in made[::-1]]
        token = await tunnels.reveal_token(made[0].id)
        assert token.id == (await tunnels.reveal_token(made[0].id)).id
        certificate = await tunnels.certificates.create(made[0].id, ca_certificate_pem=ca_pem)
        assert certificate.tunnel_id == made[0].id


def test_the_trail_is_written_with_the_change_or_not_at_all(start_control: Callable[..., ControlThread]) -> None:
    control = start_control()
    tenant = control.new_tenant()

    async def fail_late() -> None:
        context = control.operations.context
        async with context.database.write() as session:
            session.add(AuditRow(time=context.now(), organization_id=tenant.organization_id))

    with pytest.raises(Exception, match=r"NOT NULL|null value"):
        control.run(fail_late())
    assert tenant.count_tunnels() == 0
