"""Who may use the Tunnels API: headers that are required, credentials, scopes, workspaces, organizations."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest

from tests.control.test_tunnels import Wire
from tests.support.control import BETA, ControlThread, Tenant
from tests.support.requirements import requirement


@pytest.fixture
def wire(tenant: Tenant) -> Iterator[Wire]:
    made = Wire(tenant)
    yield made
    made.close()


@requirement("tunnels-api:23")
@pytest.mark.parametrize(
    ("betas", "status"),
    [
        ([], 400),
        (["mcp-tunnels-2026-05-19"], 400),
        (["foo, mcp-tunnels-2026-06-22 ,oauth-2025-04-20"], 200),
        (["foo", "mcp-tunnels-2026-06-22"], 200),
        ([BETA], 200),
    ],
)
def test_the_beta_value_is_required_however_it_is_listed(tenant: Tenant, betas: list[str], status: int) -> None:
    headers = [("authorization", f"Bearer {tenant.mint()}"), ("anthropic-version", "2023-06-01")]
    listed = [("anthropic-beta", beta) for beta in betas]
    with tenant.bare() as http:
        response = http.get("/v1/tunnels", headers=headers + listed)
    assert response.status_code == status
    if status == 400:
        assert BETA in response.json()["error"]["message"]


@requirement("tunnels-api:24")
def test_both_versions_answer_alike_and_one_is_required(tenant: Tenant) -> None:
    with tenant.http() as http:
        id = http.post("/v1/tunnels").json()["id"]
        old = http.get(f"/v1/tunnels/{id}", headers={"anthropic-version": "2023-06-01"})
        new = http.get(f"/v1/tunnels/{id}", headers={"anthropic-version": "2026-10-21"})
        assert old.content == new.content
        assert http.get("/v1/tunnels", headers={"anthropic-version": "2020-01-01"}).status_code == 400
    with tenant.http(**{"anthropic-version": ""}) as http:
        assert http.get("/v1/tunnels").status_code == 400


@requirement("tunnels-api:25")
def test_unknown_query_parameters_are_ignored(tenant: Tenant) -> None:
    with tenant.http() as http:
        plain = http.get("/v1/tunnels")
        assert http.get("/v1/tunnels", params={"beta": "true", "x": "y"}).content == plain.content


@requirement("tunnels-api:26")
def test_without_a_good_credential_nobody_is_named(tenant: Tenant) -> None:
    wire = Wire(tenant, "sk-ant-oat01-nobody")
    with pytest.raises(anthropic.AuthenticationError):
        wire.tunnels.list()
    with tenant.bare() as http:
        bare = http.get("/v1/tunnels")
    for response in (wire.responses[-1], bare):
        assert response.status_code == 401
        assert response.headers["request-id"].startswith("req_")
        assert "anthropic-workspace-id" not in response.headers
        assert "anthropic-organization-id" not in response.headers
    wire.close()


@requirement("tunnels-api:27")
@pytest.mark.parametrize("scope", ["workspace:developer", "workspace:inference", "org:admin", "org:manage_tunnels"])
def test_another_scope_does_not_open_tunnels(tenant: Tenant, scope: str) -> None:
    wire = Wire(tenant, tenant.mint({scope}))
    with pytest.raises(anthropic.PermissionDeniedError):
        wire.tunnels.list()
    wire.close()


@requirement("tunnels-api:27")
@pytest.mark.parametrize("kind", ["workspace", "admin"])
def test_an_api_key_does_not_open_tunnels_in_either_header(tenant: Tenant, kind: str) -> None:
    with tenant.as_operator() as http:
        key = http.post("/admin/v1/api_keys", json={"name": "k", "kind": kind}).json()["key"]
    wire = Wire(tenant, api_key=key)
    with pytest.raises(anthropic.PermissionDeniedError):
        wire.tunnels.list()
    assert wire.requests[0].headers["authorization"] == f"Bearer {key}"
    wire.close()
    with tenant.http(authorization="", **{"x-api-key": key}) as http:
        assert http.get("/v1/tunnels").status_code == 403


def test_a_token_with_one_of_several_scopes_is_enough(tenant: Tenant) -> None:
    with tenant.http(tenant.mint({"workspace:developer", "workspace:manage_tunnels"})) as http:
        assert http.get("/v1/tunnels").status_code == 200


@requirement("tunnels-api:28")
def test_a_tunnel_is_seen_by_its_workspace_alone(control: ControlThread, tenant: Tenant) -> None:
    second = tenant.mint(workspace_id=tenant.new_workspace())
    stranger = control.new_tenant().mint()
    with tenant.http() as first:
        id = first.post("/v1/tunnels").json()["id"]
    with tenant.http(second) as http:
        assert http.get(f"/v1/tunnels/{id}").status_code == 403
        assert http.post(f"/v1/tunnels/{id}/archive").status_code == 403
        assert http.get("/v1/tunnels").json()["data"] == []
    with tenant.http(stranger) as http:
        assert http.get(f"/v1/tunnels/{id}").status_code == 404


@requirement("tunnels-api:29")
def test_the_workspace_header_may_only_repeat_the_bound_workspace(tenant: Tenant, wire: Wire) -> None:
    other = tenant.new_workspace()
    assert wire.tunnels.list(workspace_id=tenant.workspace_id).data == []
    with pytest.raises(anthropic.PermissionDeniedError):
        wire.tunnels.list(workspace_id=other)
    with pytest.raises(anthropic.BadRequestError):
        wire.tunnels.list(workspace_id="abc")


def test_an_operator_chooses_the_workspace_by_header(tenant: Tenant) -> None:
    second = tenant.new_workspace()
    with tenant.as_operator() as http:
        id = http.post("/v1/tunnels", headers={"anthropic-workspace-id": second}).json()["id"]
        assert http.get("/v1/tunnels").json()["data"] == []
    with tenant.http(tenant.mint(workspace_id=second)) as http:
        assert http.get("/v1/tunnels").json()["data"][0]["id"] == id


@requirement("tunnels-api:30")
def test_answers_name_the_request_the_organization_and_the_workspace(tenant: Tenant) -> None:
    with tenant.http() as http:
        headers = http.get("/v1/tunnels").headers
    assert headers["request-id"].startswith("req_01")
    assert headers["anthropic-organization-id"] == tenant.organization_id
    assert headers["anthropic-workspace-id"] == tenant.workspace_id
    assert headers["content-type"] == "application/json; charset=utf-8"
