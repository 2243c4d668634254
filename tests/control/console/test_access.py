"""Creating a tunnel with programmatic access, and choosing among workspaces."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.console import sign_in, text_of
from tests.support.control import ControlThread, Tenant
from tests.support.federation import federate
from tests.support.requirements import requirement

SCOPE = "workspace:manage_tunnels"


@pytest.fixture
def tenant(control: ControlThread) -> Tenant:
    return control.new_tenant()


def parts(tenant: Tenant) -> dict[str, Any]:
    """An issuer and a service account, as the form of a rule names them."""
    made = federate(tenant, rule={"oauth_scope": "workspace:inference"})
    return {"issuer_id": made.issuer_id, "service_account_id": made.account_id}


def rule_in(page: str) -> str:
    found = re.search(r'value="(fdrl_[^"]+)"', page)
    assert found is not None
    return found[1]


@requirement("console:create")
def test_a_rule_is_created_with_the_tunnel_and_its_scope_cannot_be_forged(tenant: Tenant) -> None:
    person = sign_in(tenant)
    fields = {"rule_name": "deploy", "subject_prefix": "repo:a/b:", "oauth_scope": "org:admin", **parts(tenant)}
    answer = person.post("/tunnels", name="staging", programmatic="on", rule="new", **fields)
    assert "Tunnel created" in answer.text
    identity = text_of(person.get("/identity"))
    assert "deploy" in identity
    rule = tenant.control.run(
        tenant.control.operations.rules.retrieve(tenant.actor, rule_in(person.get("/tunnels").text))
    )
    assert rule.oauth_scope == SCOPE


def test_a_chosen_rule_is_enabled_in_the_tunnels_workspace_and_its_account_joins(tenant: Tenant) -> None:
    person = sign_in(tenant)
    fields = {"rule_name": "deploy", "subject_prefix": "x", **parts(tenant)}
    person.post("/tunnels", name="one", programmatic="on", rule="new", **fields)
    rule_id = rule_in(person.get("/tunnels").text)
    operations = tenant.control.operations
    other = tenant.control.run(operations.workspaces.create(tenant.actor, "research", None, {}))
    assert "research" in person.post("/workspace", workspace=other.id).text
    assert "Tunnel created" in person.post("/tunnels", name="two", programmatic="on", rule=rule_id).text
    rule = tenant.control.run(operations.rules.retrieve(tenant.actor, rule_id))
    assert other.id in rule.workspace_ids
    account = rule.target.service_account_id
    member = tenant.control.run(operations.workspaces.member(tenant.actor, other.id, account))
    assert member.workspace_role == "workspace_developer"


@pytest.mark.parametrize("name", ["", "one too many"])
def test_a_tunnel_that_is_refused_leaves_no_rule_behind(tenant: Tenant, name: str) -> None:
    person = sign_in(tenant)
    for number in range(10):
        person.post("/tunnels", name=f"t{number}")
    fields = {"rule_name": "deploy", "subject_prefix": "x", **parts(tenant)}
    assert person.post("/tunnels", name=name, programmatic="on", rule="new", **fields).status_code == 400
    assert 'value="fdrl_' not in person.get("/tunnels").text


def test_without_a_rule_no_tunnel_is_made_and_what_was_typed_stays(tenant: Tenant) -> None:
    person = sign_in(tenant)
    answer = person.post("/tunnels", name="stays", programmatic="on", rule="fdrl_01nope")
    assert answer.status_code == 400
    assert 'value="stays"' in answer.text
    assert "choose a federation rule" in text_of(answer)
    assert "<td>" not in person.get("/tunnels?show=all").text


def test_a_viewer_sees_no_form_but_why(tenant: Tenant) -> None:
    page = text_of(sign_in(tenant, "viewer").get("/tunnels"))
    assert "Set up programmatic access" not in page
    assert "takes the role that manages tunnels" in page


@requirement("console:workspace")
def test_a_workspace_of_ones_own_organization_can_be_chosen_by_viewers_too(tenant: Tenant) -> None:
    manager, viewer = sign_in(tenant), sign_in(tenant, "viewer")
    manager.post("/tunnels", name="staging")
    other = tenant.control.run(tenant.control.operations.workspaces.create(tenant.actor, "research", None, {}))
    assert "staging" in viewer.get("/tunnels").text
    assert "staging" not in viewer.post("/workspace", workspace=other.id).text
    assert "staging" in manager.get("/tunnels").text


@requirement("console:workspace")
def test_a_workspace_of_another_organization_cannot(control: ControlThread, tenant: Tenant) -> None:
    theirs = control.new_tenant()
    other = control.run(control.operations.workspaces.create(theirs.actor, "secret", None, {}))
    person = sign_in(tenant)
    assert person.post("/workspace", workspace=other.id).status_code == 403
    assert "secret" not in person.get("/tunnels").text
