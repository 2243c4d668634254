"""The Admin API as the official SDK calls it: service accounts, issuers, rules, workspaces; and who may do what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import anthropic
import httpx2
import pytest

from tests.support.control import GATEWAY_KEY, ControlThread, SteppedClock, Tenant, plain_client
from tests.support.federation import INLINE, ISSUER, Federated, federate, ok
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow

API = "/v1/organizations"


class Wire:
    """An SDK client with an operator's credential, and how many requests it sent."""

    def __init__(self, tenant: Tenant) -> None:
        self.requests: list[httpx2.Request] = []
        self.http = plain_client(event_hooks={"request": [self.requests.append]})
        client = anthropic.Anthropic(base_url=tenant.url, auth_token=tenant.operator, http_client=self.http)
        self.organization = client.organization


@pytest.fixture
def wire(tenant: Tenant) -> Iterator[Wire]:
    made = Wire(tenant)
    yield made
    made.http.close()


@requirement("workload-identity:25")
def test_names_are_slugs_and_unique(wire: Wire) -> None:
    accounts = wire.organization.service_accounts
    made = accounts.create(name="ci")
    assert (made.type, made.organization_role, made.description) == ("service_account", "developer", "")
    with pytest.raises(anthropic.ConflictError):
        accounts.create(name="ci")
    assert len(wire.requests) == 2
    with pytest.raises(anthropic.BadRequestError):
        accounts.create(name="CI")
    accounts.archive(made.id)
    with pytest.raises(anthropic.ConflictError):
        accounts.create(name="ci")


def test_a_service_account_is_updated_field_by_field(wire: Wire) -> None:
    accounts = wire.organization.service_accounts
    made = accounts.create(name="ci", description="builds")
    assert accounts.update(made.id, organization_role="admin").description == "builds"
    assert accounts.update(made.id, description=None).description == ""
    assert accounts.retrieve(made.id).organization_role == "admin"
    accounts.archive(made.id)
    with pytest.raises(anthropic.BadRequestError):
        accounts.update(made.id, description="x")
    with pytest.raises(anthropic.NotFoundError):
        accounts.retrieve("svac_01unknown")


@requirement("workload-identity:26")
def test_what_a_live_rule_needs_cannot_be_archived(tenant: Tenant, wire: Wire) -> None:
    federated, federation = federate(tenant), wire.organization.federation
    for archive in (
        lambda: wire.organization.service_accounts.archive(federated.account_id),
        lambda: federation.issuers.archive(federated.issuer_id),
    ):
        with pytest.raises(anthropic.BadRequestError):
            archive()
    federation.rules.archive(federated.rule_id)
    assert federation.issuers.archive(federated.issuer_id) == federation.issuers.archive(federated.issuer_id)
    first = wire.organization.service_accounts.archive(federated.account_id)
    assert wire.organization.service_accounts.archive(federated.account_id).archived_at == first.archived_at


@requirement("workload-identity:27")
def test_lists_page_and_hide_what_is_archived(tenant: Tenant, wire: Wire) -> None:
    issuers = wire.organization.federation.issuers
    made = [issuers.create(name=f"i{n}", issuer_url=ISSUER, jwks=cast(Any, INLINE)).id for n in range(5)]
    assert [issuer.id for issuer in issuers.list(limit=2)] == made[::-1]
    with pytest.raises(anthropic.BadRequestError):
        issuers.list(limit=101)
    issuers.archive(made[0])
    assert made[0] not in [issuer.id for issuer in issuers.list()]
    assert made[0] in [issuer.id for issuer in issuers.list(include_archived=True)]


@requirement("workload-identity:28")
def test_a_federated_administrator_may_do_less_than_a_person(tenant: Tenant) -> None:
    federated = federate(tenant)
    with tenant.as_operator() as person:
        admin = ok(person.post(f"{API}/service_accounts", json={"name": "root", "organization_role": "admin"}))["id"]

    def outcome(http: httpx2.Client, name: str, scope: str, account: str) -> int:
        target = {"type": "service_account", "service_account_id": account}
        rule = {"name": name, "issuer_id": federated.issuer_id, "match": {"subject_prefix": "x"}, "target": target}
        placed = rule | {"oauth_scope": scope, "workspace_id": tenant.workspace_id}
        return http.post(f"{API}/federation_rules", json=placed).status_code

    with tenant.http(tenant.mint({"org:admin"})) as http:
        assert outcome(http, "a", "workspace:developer", federated.account_id) == 200
        assert outcome(http, "b", "workspace:manage_tunnels", federated.account_id) == 403
        assert outcome(http, "c", "org:admin", admin) == 403
        assert http.post(f"{API}/service_accounts", json={"name": "x", "organization_role": "admin"}).status_code == 403
        assert http.post(f"{API}/service_accounts/{admin}", json={"organization_role": "admin"}).status_code == 403
        assert http.post(f"{API}/federation_rules/{federated.rule_id}/archive").status_code == 403
        assert http.post(f"{API}/federation_issuers/{federated.issuer_id}", json={"check_jti": True}).status_code == 403
        assert http.post(f"{API}/service_accounts", json={"name": "dev"}).status_code == 200
        assert http.get("/admin/v1/audit").status_code == 403
        assert http.post("/admin/v1/api_keys", json={"name": "x"}).status_code == 403
    with tenant.as_operator() as person:
        assert outcome(person, "b", "workspace:manage_tunnels", federated.account_id) == 200
        assert outcome(person, "c", "org:admin", admin) == 200


@requirement("workload-identity:30")
def test_a_rule_is_enabled_and_disabled_per_workspace(tenant: Tenant, wire: Wire) -> None:
    federated, second = federate(tenant), tenant.new_workspace("second")
    workspaces = wire.organization.federation.rules.workspaces
    for _ in range(2):
        added = workspaces.add(federated.rule_id, workspace_id=second)
        assert (added.workspace_id, added.workspace_name) == (second, None)
    names = {item.workspace_id: item.workspace_name for item in workspaces.list(federated.rule_id)}
    assert names == {second: "second", tenant.workspace_id: "Default"}
    for _ in range(2):
        removed = workspaces.remove(second, federation_rule_id=federated.rule_id)
        assert removed.type == "federation_rule_workspace_deleted"
    assert wire.organization.federation.rules.retrieve(federated.rule_id).workspace_ids == [tenant.workspace_id]


def test_a_rule_is_updated_within_its_limits(federated: Federated) -> None:
    second = federated.tenant.new_workspace()
    rule = f"{API}/federation_rules/{federated.rule_id}"
    with federated.tenant.as_operator() as http:
        assert ok(http.post(rule, json={"workspace_id": second}))["workspace_ids"] == [second]
        ok(http.post(f"{rule}/workspaces", json={"workspace_id": federated.tenant.workspace_id}))
        assert http.post(rule, json={"workspace_id": second}).status_code == 400
        assert ok(http.post(rule, json={"applies_to_all_workspaces": True}))["applies_to_all_workspaces"] is True
        for workspace in (second, federated.tenant.workspace_id):
            ok(http.delete(f"{rule}/workspaces/{workspace}"))
        assert http.post(rule, json={"applies_to_all_workspaces": False}).status_code == 400
        assert http.post(rule, json={"oauth_scope": "workspace:everything"}).status_code == 400
        assert http.post(rule, json={"token_lifetime_seconds": 59}).status_code == 400
        assert http.post(rule, json={"attributes": {"a": "b"}}).status_code == 400
        assert ok(http.post(rule, json={"attributes": {}, "description": "x"}))["attributes"] is None
        assert http.post(rule, json={"issuer_id": "fdis_01x"}).status_code == 400
        ok(http.post(f"{rule}/archive"))
        assert http.post(rule, json={"description": "x"}).status_code == 400


@pytest.fixture
def federated(tenant: Tenant) -> Federated:
    return federate(tenant)


@requirement("workload-identity:14")
@pytest.mark.parametrize(
    "match",
    [
        {"condition": "true"},
        {"condition": "1"},
        {"condition": "foo.bar"},
        {"condition": "((claims.a"},
        {"condition": 'claims.a == "b" || true'},
        {"condition": "size(claims)"},
        {"condition": "claims.frobnicate()"},
        {"condition": 'claims.a == "' + "a" * 4096 + '"'},
        {"audience": "x"},
        {"subject_prefix": "*"},
        {"claims": {}},
        {"claims": {"a": 1}},
        {},
    ],
    ids=lambda match: str(match)[:40],
)
def test_a_match_that_would_admit_everybody_is_refused(federated: Federated, match: dict[str, Any]) -> None:
    with federated.tenant.as_operator() as http:
        response = http.post(f"{API}/federation_rules/{federated.rule_id}", json={"match": match})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("match")


@requirement("workload-identity:32")
def test_the_default_workspace_needs_no_membership(tenant: Tenant, wire: Wire) -> None:
    account = wire.organization.service_accounts.create(name="ci").id
    memberships = wire.organization.service_accounts.workspaces
    second = tenant.new_workspace()
    memberships.add(account, workspace_id=second, workspace_role="workspace_developer")
    for _ in range(2):
        listed = list(memberships.list(account))
        assert [(item.workspace_id, item.implicit) for item in listed] == [(tenant.workspace_id, True), (second, False)]
        memberships.remove(tenant.workspace_id, service_account_id=account)
    members = wire.organization.workspaces.service_accounts
    assert list(members.list(tenant.workspace_id)) == []
    assert members.retrieve(account, workspace_id=tenant.workspace_id).implicit is True
    assert [item.service_account_id for item in members.list(second)] == [account]
    changed = members.update(account, workspace_id=second, workspace_role="workspace_admin")
    assert changed.workspace_role == "workspace_admin"
    assert members.remove(account, workspace_id=second).type == "service_account_workspace_member_deleted"
    with pytest.raises(anthropic.NotFoundError):
        members.retrieve(account, workspace_id=second)
    with pytest.raises(anthropic.BadRequestError):
        memberships.add(account, workspace_id="wrkspc_01x", workspace_role="workspace_user")
    with pytest.raises(anthropic.BadRequestError):
        memberships.add(account, workspace_id=second, workspace_role=cast(Any, "workspace_billing"))


def test_workspaces_page_by_id_and_hide_the_default_one(tenant: Tenant, wire: Wire) -> None:
    workspaces = wire.organization.workspaces
    made = [workspaces.create(name=f"w{n}").id for n in range(5)]
    assert [item.id for item in workspaces.list(limit=2)] == made[::-1]
    assert workspaces.retrieve(tenant.workspace_id).name == "Default"
    assert tenant.workspace_id in [item.id for item in workspaces.list(include_default=True)]
    updated = workspaces.update(made[0], name="renamed", tags={"a": "b"})
    assert (updated.name, updated.tags, updated.display_color) == ("renamed", {"a": "b"}, "#6C5BB9")
    assert workspaces.update(made[0], tags={"a": None}).tags == {}
    archived = workspaces.archive(made[0])
    assert workspaces.archive(made[0]).archived_at == archived.archived_at
    assert made[0] not in [item.id for item in workspaces.list()]
    with pytest.raises(anthropic.BadRequestError):
        workspaces.archive(tenant.workspace_id)
    newest = workspaces.list(limit=1)
    before = workspaces.list(before_id=made[1], limit=2)
    assert [item.id for item in before.data] == [made[3], made[2]]
    assert newest.has_more is True


def test_a_key_that_would_be_over_already_is_not_made(tenant: Tenant) -> None:
    with tenant.as_operator() as http:
        refused = http.post("/admin/v1/api_keys", json={"name": "old", "expires_at": "2020-01-01T00:00:00Z"})
        assert http.get("/admin/v1/api_keys").json()["data"] == []
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert refused.json()["error"]["message"].startswith("expires_at: must be in the future; leave it out")


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59-23:59"])
def test_a_key_cannot_end_after_the_calendar(tenant: Tenant, end: str) -> None:
    """It was kept, and then no list of keys could be written out any more."""
    with tenant.as_operator() as http:
        refused = http.post("/admin/v1/api_keys", json={"name": "late", "expires_at": end})
        assert (refused.status_code, ok(http.get("/admin/v1/api_keys"))["data"]) == (400, [])
        last = ok(http.post("/admin/v1/api_keys", json={"name": "last", "expires_at": "9999-12-31T23:59:59Z"}))
        assert ok(http.get("/admin/v1/api_keys"))["data"][0]["expires_at"] == last["expires_at"]


def test_history_begins_with_the_calendar(tenant: Tenant) -> None:
    with tenant.as_operator() as http:
        path = f"/admin/v1/tunnels/{ok(http.post('/v1/tunnels'))['id']}/traffic"
        assert http.get(path, params={"until": "0001-01-01T00:00:00Z"}).status_code == 400
        assert ok(http.get(path, params={"until": "1970-01-01T00:00:00+14:00"}))["data"] == []


@requirement("workload-identity:33")
def test_the_gateway_learns_who_a_credential_stands_for(start_control: Callable[..., ControlThread]) -> None:
    clock = SteppedClock()
    tenant = start_control(clock=clock).new_tenant()

    def ask(credential: str, **fields: str) -> httpx2.Response:
        with tenant.http(GATEWAY_KEY) as gateway:
            return gateway.post("/internal/v1/authenticate", json={"credential": credential} | fields)

    with tenant.as_operator() as http:
        key = ok(http.post("/admin/v1/api_keys", json={"name": "app"}))
        soon = {"name": "old", "expires_at": (clock.now() + timedelta(seconds=30)).isoformat()}
        expired = ok(http.post("/admin/v1/api_keys", json=soon))
        ok(ask(expired["key"]))
        clock.advance(seconds=31)
        principal = ok(ask(key["key"]))
        assert principal["kind"] == "api_key"
        assert principal["workspace_id"] == tenant.workspace_id
        assert sorted(principal["scopes"]) == ["workspace:developer", "workspace:inference"]
        assert ask(expired["key"]).status_code == 401
        assert ask(key["key"], workspace_id=tenant.new_workspace()).status_code == 401
        assert ok(ask(tenant.mint()))["scopes"] == ["workspace:manage_tunnels"]
        assert ok(http.post(f"/admin/v1/api_keys/{key['id']}", json={"status": "inactive"}))["status"] == "inactive"
        assert ask(key["key"]).status_code == 401
        ok(http.post(f"/admin/v1/api_keys/{key['id']}", json={"status": "active"}))
        ok(ask(key["key"]))
        ok(http.post(f"/admin/v1/api_keys/{key['id']}", json={"status": "archived"}))
        assert ask(key["key"]).status_code == 401
        assert http.post(f"/admin/v1/api_keys/{key['id']}", json={"status": "active"}).status_code == 400
        listed = ok(http.get("/admin/v1/api_keys", params={"include_archived": "true"}))["data"]
    assert {item["id"]: (item["status"], item["key"]) for item in listed} == {
        key["id"]: ("archived", None),
        expired["id"]: ("expired", None),
    }


@requirement("workload-identity:35")
def test_a_tunnels_api_key_drives_a_tunnel_until_it_is_revoked(tenant: Tenant, ca_pem: str) -> None:
    with tenant.as_operator() as http:
        assert http.post("/admin/v1/tunnels_api_keys", json={"name": "x", "lifetime_seconds": 299}).status_code == 400
        made = ok(http.post("/admin/v1/tunnels_api_keys", json={"name": "setup", "lifetime_seconds": 300}))
        client = anthropic.Anthropic(base_url=tenant.url, auth_token=made["token"])
        tunnel = client.beta.tunnels.create()
        client.beta.tunnels.certificates.create(tunnel.id, ca_certificate_pem=ca_pem)
        assert client.beta.tunnels.reveal_token(tunnel.id).tunnel_token.startswith("eyJ")
        listed = ok(http.get("/admin/v1/access_tokens", params={"kind": "tunnels_api_key"}))["data"]
        assert [(item["id"], item["token"]) for item in listed] == [(made["id"], None)]
        ok(http.post(f"/admin/v1/access_tokens/{made['id']}/revoke"))
        with pytest.raises(anthropic.AuthenticationError):
            client.beta.tunnels.list()
        client.close()
        trail = ok(http.get("/admin/v1/audit"))["data"]
    actions = [entry["action"] for entry in trail]
    assert actions[:3] == ["tunnels_api_key.revoke", "tunnel.reveal_token", "certificate.create"]
    assert next(entry for entry in trail if entry["action"] == "tunnel.create")["actor_id"] == made["id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/organizations/workspaces?ids[]=%00", 400),
        ("/v1/organizations/federation_rules?issuer_id=%00", 400),
        ("/admin/v1/access_tokens?kind=%00", 400),
        ("/admin/v1/api_keys/%00", 404),
        ("/admin/v1/access_tokens/%00/revoke", 404),
    ],
)
def test_a_character_that_a_database_refuses_is_refused_before(tenant: Tenant, path: str, status: int) -> None:
    with tenant.as_operator() as http:
        answer = http.get(path) if "?" in path else http.post(path, json={"status": "active"})
    assert answer.status_code == status
    assert answer.headers["request-id"] == answer.json()["request_id"]
