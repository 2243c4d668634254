"""The token exchange: what buys a token, what does not, and that nobody can tell why not."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import WorkloadIdentityCredentials, WorkloadIdentityError
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import func, select

from qanat.control.store.tables import AuthenticationEventRow, UsedAssertionRow
from tests.support.control import ControlThread, SteppedClock, Tenant, recorded_logs
from tests.support.federation import EC_KEY, ISSUER, Federated, federate, ok, sign
from tests.support.requirements import requirement


@pytest.fixture
def federated(tenant: Tenant) -> Federated:
    return federate(tenant)


def credentials(federated: Federated, assertion: Callable[[], str] | None = None, **fields: Any) -> Any:
    return WorkloadIdentityCredentials(
        identity_token_provider=assertion or federated.assertion,
        federation_rule_id=federated.rule_id,
        organization_id=federated.tenant.organization_id,
        **fields,
    )


class Wire:
    """An SDK client that exchanges, and what the server saw of it: `POST /v1/oauth/token 200`."""

    def __init__(self, federated: Federated, provider: Any) -> None:
        self._tenant = federated.tenant
        self._tenant.control.settle()
        self._logs = contextlib.ExitStack()
        self._recorder = self._logs.enter_context(recorded_logs())
        self.requests: list[httpx2.Request] = []
        self.client = anthropic.Anthropic(base_url=federated.tenant.url, credentials=provider)
        self.client._client.event_hooks = {"request": [self.requests.append]}

    def log(self) -> list[str]:
        return self._tenant.control.served(self._recorder)

    def close(self) -> None:
        self.client.close()
        self._logs.close()


@requirement("workload-identity:1")
def test_the_sdk_exchanges_and_then_calls(federated: Federated) -> None:
    wire = Wire(federated, credentials(federated))
    assert wire.client.beta.tunnels.list().data == []
    assert wire.log() == ["POST /v1/oauth/token 200", "GET /v1/tunnels 200"]
    (call,) = wire.requests
    assert call.headers["authorization"].startswith("Bearer sk-ant-oat01-")
    assert "oauth-2025-04-20" in call.headers["anthropic-beta"]
    wire.close()


@requirement("workload-identity:2")
def test_the_environment_is_enough(federated: Federated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", federated.tenant.url)
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", federated.rule_id)
    monkeypatch.setenv("ANTHROPIC_ORGANIZATION_ID", federated.tenant.organization_id)
    monkeypatch.setenv("ANTHROPIC_IDENTITY_TOKEN", federated.assertion())
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with anthropic.Anthropic() as client:
        assert client.beta.tunnels.list().data == []


@requirement("workload-identity:3")
def test_no_header_is_required(federated: Federated) -> None:
    response = federated.exchange()
    body = ok(response)
    assert response.headers["cache-control"] == "no-store"
    assert body["access_token"].startswith("sk-ant-oat01-")
    assert (body["token_type"], body["scope"]) == ("Bearer", "workspace:manage_tunnels")


@requirement("workload-identity:4")
def test_a_form_is_taken_too_but_nothing_else(federated: Federated) -> None:
    with federated.tenant.bare() as http:
        assert http.post("/v1/oauth/token", data=federated.body()).status_code == 200
        headers, text = {"content-type": "text/plain"}, json.dumps(federated.body())
        assert http.post("/v1/oauth/token", content=text, headers=headers).status_code == 400


@requirement("workload-identity:5")
@pytest.mark.parametrize(("left", "least", "most"), [(300, 590, 600), (20, 60, 60), (36_000, 3600, 3600)])
def test_a_token_lives_twice_as_long_as_the_assertion_had_left(
    tenant: Tenant, left: int, least: int, most: int
) -> None:
    federated = federate(tenant, issuer={"max_jwt_lifetime_seconds": 86_400})
    body = ok(federated.exchange(federated.assertion(exp=int(time.time()) + left)))
    assert least <= body["expires_in"] <= most


@requirement("workload-identity:6")
@pytest.mark.parametrize("field", ["grant_type", "assertion", "federation_rule_id", "organization_id"])
def test_a_missing_field_is_named_and_leaves_no_entry(federated: Federated, field: str) -> None:
    body = federated.body()
    del body[field]
    with federated.tenant.bare() as http:
        response = http.post("/v1/oauth/token", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"{field}: ")
    assert federated.reasons() == []


@requirement("workload-identity:7")
@pytest.mark.parametrize(
    "change",
    [
        {"workspace_id": "foo"},
        {"grant_type": "client_credentials"},
        {"federation_rule_id": "x"},
        {"organization_id": "x"},
        {"service_account_id": "x"},
        {"assertion": "a" * (16 * 1024 + 1)},
        {"assertion": 5},
    ],
)
def test_a_malformed_field_is_named(federated: Federated, change: dict[str, Any]) -> None:
    with federated.tenant.bare() as http:
        response = http.post("/v1/oauth/token", json=federated.body() | change)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(next(iter(change)))
    assert federated.reasons() == []


@requirement("workload-identity:7")
def test_default_names_the_default_workspace(federated: Federated) -> None:
    token = ok(federated.exchange(workspace_id="default"))["access_token"]
    with federated.tenant.http(token) as http:
        answer = http.get("/v1/tunnels")
    assert answer.headers["anthropic-workspace-id"] == federated.tenant.workspace_id


OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _unsigned(claims: dict[str, Any], algorithm: object = "none") -> str:
    parts = ({"alg": algorithm, "kid": "rsa"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, ""])


def _now(offset: float) -> int:
    return int(time.time() + offset)


DENIED: dict[str, Callable[[Federated], str]] = {
    "jwt_malformed": lambda f: "not.a.jwt",
    "jwt_signature": lambda f: sign(f.claims(), key=OTHER_KEY),
    "jwt_iss": lambda f: f.assertion(iss=ISSUER + "/"),
    "jwt_exp": lambda f: f.assertion(iat=_now(-100), exp=_now(-31)),
    "jwt_iat": lambda f: f.assertion(iat=_now(34)),
    "jwt_nbf": lambda f: f.assertion(nbf=_now(34)),
    "jwt_kid": lambda f: sign(f.claims(), kid=None),
    "jwt_kid ": lambda f: sign(f.claims(), kid="unknown"),
    "jwt_alg": lambda f: sign(f.claims(), key="x" * 64, algorithm="HS256"),
    "jwt_alg ": lambda f: _unsigned(f.claims()),
    "jwt_alg  ": lambda f: _unsigned(f.claims(), ["RS256"]),
    "jwt_sub": lambda f: f.assertion(sub=None),
    "jwt_lifetime": lambda f: f.assertion(exp=_now(3603)),
    "match_audience": lambda f: f.assertion(aud="https://elsewhere.example"),
    "match_subject_prefix": lambda f: f.assertion(sub="cx"),
    "match_claims": lambda f: f.assertion(env="dev"),
    "match_condition": lambda f: f.assertion(env="prod", branch="topic"),
}


@pytest.mark.slow
@requirement("workload-identity:8")
@pytest.mark.parametrize("reason", DENIED)
def test_every_denial_looks_the_same_and_is_explained_in_the_history(tenant: Tenant, reason: str) -> None:
    strict = reason.startswith(("match_claims", "match_condition"))
    match = {"subject_prefix": "ci", "claims": {"env": "prod"}, "condition": 'claims.branch == "main"'}
    federated = federate(tenant, rule={"match": match if strict else {"subject_prefix": "ci"}})
    response = federated.exchange(DENIED[reason](federated))
    assert_opaque(response)
    assert federated.reasons() == [reason.strip()]


def assert_opaque(response: httpx2.Response) -> None:
    body = response.json()
    assert response.status_code == 401
    assert body == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "Authentication failed"},
        "request_id": response.headers["request-id"],
    }
    assert set(response.headers) == {"date", "content-type", "content-length", "request-id"}


@requirement("workload-identity:8")
def test_unknown_rules_and_other_organizations_leave_no_entry(control: ControlThread, federated: Federated) -> None:
    assert_opaque(federated.exchange(federation_rule_id="fdrl_01unknown"))
    assert_opaque(federated.exchange(organization_id=control.new_tenant().organization_id))
    assert federated.reasons() == []


@requirement("workload-identity:8")
def test_archived_things_and_a_wrong_service_account_are_denied(federated: Federated) -> None:
    assert_opaque(federated.exchange(service_account_id="svac_01another"))
    with federated.tenant.as_operator() as http:
        ok(http.post(f"/v1/organizations/federation_rules/{federated.rule_id}/archive"))
    assert_opaque(federated.exchange())
    assert federated.reasons() == ["rule_archived", "service_account_mismatch"]


@requirement("workload-identity:9")
def test_clocks_may_differ_by_half_a_minute(federated: Federated) -> None:
    ok(federated.exchange(federated.assertion(iat=_now(-60), exp=_now(-27))))
    ok(federated.exchange(federated.assertion(iat=_now(27))))


@requirement("workload-identity:10")
def test_a_subject_matches_exactly_or_by_prefix(federated: Federated) -> None:
    assertion = federated.assertion(sub="a:bc")
    for prefix, status in (("a:b", 401), ("a:b*", 200), ("A:b*", 401), ("a:bc", 200), ("*c", 401)):
        federated.update_rule(match={"subject_prefix": prefix})
        assert federated.exchange(assertion).status_code == status, prefix


@requirement("workload-identity:11")
def test_an_audience_is_one_of_an_array_but_no_substring(federated: Federated) -> None:
    federated.update_rule(match={"subject_prefix": "ci", "audience": "me"})
    ok(federated.exchange(federated.assertion(aud=["you", "me"])))
    for audience in ("meow", ["meow"], [["me"]], 5, None, federated.tenant.url):
        assert_opaque(federated.exchange(federated.assertion(aud=audience)))


def test_the_bare_host_name_is_an_audience_by_default(federated: Federated) -> None:
    ok(federated.exchange(federated.assertion(aud="127.0.0.1")))


@requirement("workload-identity:12")
def test_a_numeric_claim_matches_no_string(federated: Federated) -> None:
    federated.update_rule(match={"claims": {"n": "1"}})
    assert_opaque(federated.exchange(federated.assertion(n=1)))
    ok(federated.exchange(federated.assertion(n="1")))


@requirement("workload-identity:13")
def test_a_condition_decides(federated: Federated) -> None:
    condition = 'claims.repo.startsWith("org/") && claims.ref in ["refs/heads/main"]'
    federated.update_rule(match={"condition": condition})
    ok(federated.exchange(federated.assertion(repo="org/a", ref="refs/heads/main")))
    assert_opaque(federated.exchange(federated.assertion(repo="org/a", ref="refs/heads/dev")))
    assert_opaque(federated.exchange(federated.assertion(repo="org/a")))
    assert_opaque(federated.exchange(federated.assertion(repo=7, ref="refs/heads/main")))


@requirement("workload-identity:15", "workload-identity:16")
def test_the_workspace_is_chosen_and_membership_counts(federated: Federated) -> None:
    second = federated.tenant.new_workspace()
    api, rule = "/v1/organizations", f"/v1/organizations/federation_rules/{federated.rule_id}"
    with federated.tenant.as_operator() as http:
        assert_opaque(federated.exchange(workspace_id=second))
        ok(http.post(f"{rule}/workspaces", json={"workspace_id": second}))
        assert_opaque(federated.exchange())
        assert_opaque(federated.exchange(workspace_id=second))
        membership = {"service_account_id": federated.account_id, "workspace_role": "workspace_developer"}
        ok(http.post(f"{api}/workspaces/{second}/service_accounts", json=membership))
        token = ok(federated.exchange(workspace_id=second))["access_token"]
        with federated.tenant.http(token) as member:
            assert member.get("/v1/tunnels").headers["anthropic-workspace-id"] == second
            ok(http.delete(f"{api}/workspaces/{second}/service_accounts/{federated.account_id}"))
            assert member.get("/v1/tunnels").status_code == 403
        ok(http.post(f"{api}/workspaces/{second}/archive"))
        assert_opaque(federated.exchange(workspace_id=second))
    assert federated.reasons() == [
        "workspace_archived",
        None,
        "service_account_not_member",
        "workspace_id_required",
        "workspace_not_enabled",
    ]


@requirement("workload-identity:15")
def test_the_sdk_says_what_to_set_when_the_workspace_is_missing(federated: Federated) -> None:
    federated_rule = f"/v1/organizations/federation_rules/{federated.rule_id}/workspaces"
    with federated.tenant.as_operator() as http:
        ok(http.post(federated_rule, json={"workspace_id": federated.tenant.new_workspace()}))
    wire = Wire(federated, credentials(federated))
    with pytest.raises(WorkloadIdentityError, match="ANTHROPIC_WORKSPACE_ID"):
        wire.client.beta.tunnels.list()
    wire.close()


def test_a_rule_for_all_workspaces_defaults_to_the_default_one(tenant: Tenant) -> None:
    federated = federate(tenant, rule={"workspace_id": None, "applies_to_all_workspaces": True})
    token = ok(federated.exchange())["access_token"]
    with tenant.http(token) as http:
        assert http.get("/v1/tunnels").headers["anthropic-workspace-id"] == tenant.workspace_id


@requirement("workload-identity:17")
def test_an_assertion_buys_one_token_and_a_denial_does_not_spend_it(tenant: Tenant) -> None:
    federated = federate(tenant, issuer={"check_jti": True})
    assertion = federated.assertion(jti="once", env="prod")
    federated.update_rule(match={"claims": {"env": "dev"}})
    assert_opaque(federated.exchange(assertion))
    federated.update_rule(match={"claims": {"env": "prod"}})
    ok(federated.exchange(assertion))
    assert_opaque(federated.exchange(assertion))
    assert federated.reasons() == ["jti_replayed", None, "match_claims"]


@requirement("workload-identity:18")
def test_without_the_check_an_assertion_buys_many(federated: Federated) -> None:
    assertion = federated.assertion(jti="often")
    tokens = {ok(federated.exchange(assertion))["access_token"] for _ in range(10)}
    assert len(tokens) == 10


@requirement("workload-identity:19")
def test_the_sdk_tries_twice_and_then_tells(federated: Federated) -> None:
    wire = Wire(federated, credentials(federated, lambda: federated.assertion(sub="stranger")))
    with pytest.raises(WorkloadIdentityError) as denied:
        wire.client.beta.tunnels.list()
    assert denied.value.status_code == 401
    assert str(denied.value.request_id).startswith("req_")
    assert wire.log() == ["POST /v1/oauth/token 401"] * 2
    wire.close()


@requirement("workload-identity:20")
def test_a_revoked_token_is_replaced_by_the_sdk(federated: Federated) -> None:
    wire = Wire(federated, credentials(federated))
    wire.client.beta.tunnels.list()
    with federated.tenant.as_operator() as http:
        revoked = http.post("/admin/v1/access_tokens/revoke_all", json={"service_account_id": federated.account_id})
        assert ok(revoked) == {"revoked": 1}
    wire.client.beta.tunnels.list()
    assert wire.log()[-3:] == ["GET /v1/tunnels 401", "POST /v1/oauth/token 200", "GET /v1/tunnels 200"]
    wire.close()


@requirement("workload-identity:31")
def test_archiving_a_rule_leaves_its_tokens_alive(federated: Federated) -> None:
    token = ok(federated.exchange())["access_token"]
    with federated.tenant.as_operator() as http:
        rule = ok(http.post(f"/v1/organizations/federation_rules/{federated.rule_id}/archive"))
    assert rule["workspace_ids"] == []
    assert_opaque(federated.exchange())
    with federated.tenant.http(token) as http:
        assert http.get("/v1/tunnels").status_code == 200


def test_a_token_expires(start_control: Callable[..., ControlThread]) -> None:
    clock = SteppedClock()
    federated = federate(start_control(clock=clock).new_tenant())
    token = ok(federated.exchange())["access_token"]
    with federated.tenant.http(token) as http:
        assert http.get("/v1/tunnels").status_code == 200
        clock.advance(seconds=601)
        assert http.get("/v1/tunnels").status_code == 401


@requirement("workload-identity:29")
def test_a_demoted_administrator_is_denied(tenant: Tenant) -> None:
    api, admin = "/v1/organizations", {"name": "root", "organization_role": "admin"}
    federated = federate(tenant)
    with tenant.as_operator() as http:
        refused = http.post(f"{api}/federation_rules/{federated.rule_id}", json={"oauth_scope": "org:admin"})
        assert refused.status_code == 400
        account = ok(http.post(f"{api}/service_accounts", json=admin))["id"]
        target = {"type": "service_account", "service_account_id": account}
        federated.update_rule(oauth_scope="org:admin", target=target)
        token = ok(federated.exchange())["access_token"]
        with tenant.http(token) as minted:
            answer = minted.get(f"{api}/service_accounts")
            assert answer.status_code == 200
            assert "anthropic-workspace-id" not in answer.headers
            ok(http.post(f"{api}/service_accounts/{account}", json={"organization_role": "developer"}))
            assert minted.get(f"{api}/service_accounts").status_code == 403
        assert_opaque(federated.exchange())
    assert federated.reasons()[0] == "role_insufficient"


@requirement("workload-identity:34")
def test_the_sdk_federates_over_plain_http_on_loopback_only(federated: Federated) -> None:
    with pytest.raises(anthropic.AnthropicError, match="https"):  # so a deployment has to offer TLS
        anthropic.Anthropic(base_url="http://tunnels.corp:8080", credentials=credentials(federated))


def test_elliptic_keys_and_projected_tokens_work(federated: Federated) -> None:
    """A Kubernetes projected token: an audience array, a jti, nested claims, an hour's life."""
    now = int(time.time())
    projected = {
        "aud": [federated.tenant.url],
        "exp": now + 3600,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": "c7f0a1a6-0a53-4bc9-a1a1-3b5c1f0a2b11",
        "kubernetes.io": {"namespace": "mcp", "serviceaccount": {"name": "setup", "uid": "1"}},
        "sub": "system:serviceaccount:mcp:setup",
    }
    condition = 'claims["kubernetes.io"].namespace == "mcp"'
    federated.update_rule(match={"subject_prefix": "system:serviceaccount:mcp:setup", "condition": condition})
    token = sign(projected, kid="ec", key=EC_KEY, algorithm="ES256")
    ok(federated.exchange(token))
    ok(federated.exchange(token))


def test_a_github_actions_token_needs_a_rule_that_names_its_owner(tenant: Tenant) -> None:
    github = "https://token.actions.githubusercontent.com"
    pinned = {"subject_prefix": "repo:acme/infra:*", "claims": {"repository_owner": "acme"}}
    federated = federate(tenant, issuer={"issuer_url": github}, rule={"match": pinned})
    rule = f"/v1/organizations/federation_rules/{federated.rule_id}"
    with tenant.as_operator() as http:
        for match in ({"claims": {"ref": "refs/heads/main"}}, {"subject_prefix": "repo:*"}, {"subject_prefix": "re*"}):
            assert http.post(rule, json={"match": match}).status_code == 400
    claims = {"sub": "repo:acme/infra:ref:refs/heads/main", "repository_owner": "acme", "run_attempt": "1"}
    ok(federated.exchange(federated.assertion(**claims)))
    assert_opaque(federated.exchange(federated.assertion(**claims | {"sub": "repo:evil/infra:ref:refs/heads/main"})))


def test_the_history_keeps_hostile_text_short_and_harmless(federated: Federated) -> None:
    assert_opaque(federated.exchange(federated.assertion(sub="x\r\n\u202e" + "y" * 5000)))
    with federated.tenant.as_operator() as http:
        event = http.get("/admin/v1/authentication_events").json()["data"][0]
    assert len(event["claims"]["sub"]) <= 256
    assert "\n" not in event["claims"]["sub"]
    assert event["outcome"] == "denied"
    assert event["address"] == "127.0.0.1"


def test_spent_assertions_are_forgotten_when_they_could_no_longer_be_used(
    start_control: Callable[..., ControlThread],
) -> None:
    clock = SteppedClock()
    control = start_control(clock=clock)
    federated = federate(control.new_tenant(), issuer={"check_jti": True})
    ok(federated.exchange(federated.assertion(jti="once")))

    async def count(table: Any) -> int:
        async with control.operations.context.database.read() as session:
            return (await session.execute(select(func.count()).select_from(table))).scalar_one()

    assert control.run(count(UsedAssertionRow)) == 1
    clock.advance(days=91)
    control.run(control.operations.housekeeping.prune())
    assert control.run(count(UsedAssertionRow)) == 0
    assert control.run(count(AuthenticationEventRow)) == 0


def two_exchanges_a_minute(start_control: Callable[..., ControlThread], clock: SteppedClock) -> Federated:
    proxies = {"trusted_proxies": ["127.0.0.1/32"]}
    control = start_control({"limits": {"exchanges_per_minute": 2}, **proxies}, clock=clock)
    return federate(control.new_tenant(), issuer={"check_jti": True})


def exchange_from(federated: Federated, address: str, assertion: str) -> int:
    with federated.tenant.bare() as http:
        headers = {"x-forwarded-for": address}
        return http.post("/v1/oauth/token", json=federated.body(assertion), headers=headers).status_code


def test_good_exchanges_are_limited_per_rule_and_a_refused_one_spends_nothing(
    start_control: Callable[..., ControlThread],
) -> None:
    clock = SteppedClock()
    federated = two_exchanges_a_minute(start_control, clock)
    spare = federated.assertion(jti="spare")
    codes = [exchange_from(federated, f"192.0.2.{n}", federated.assertion(jti=str(n))) for n in range(2)]
    assert [*codes, exchange_from(federated, "192.0.2.9", spare)] == [200, 200, 429]
    clock.advance(seconds=31)
    assert exchange_from(federated, "192.0.2.9", spare) == 200


def test_failed_exchanges_use_up_their_address_and_not_the_rule(start_control: Callable[..., ControlThread]) -> None:
    federated = two_exchanges_a_minute(start_control, SteppedClock())
    forged = sign(federated.claims(), key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    assert [exchange_from(federated, "192.0.2.1", forged) for _ in range(3)] == [401, 401, 429]
    assert exchange_from(federated, "192.0.2.1", federated.assertion(jti="1")) == 429
    assert [exchange_from(federated, "192.0.2.2", federated.assertion(jti=n)) for n in "23"] == [200, 200]


def test_configured_audiences_replace_the_default_ones(start_control: Callable[..., ControlThread]) -> None:
    control = start_control({"federation": {"default_audiences": ["api.anthropic.com"]}})
    federated = federate(control.new_tenant())
    ok(federated.exchange(federated.assertion(aud="api.anthropic.com")))
    assert_opaque(federated.exchange(federated.assertion(aud=federated.tenant.url)))
