"""Programmatic access, set up while a tunnel is created: a federation rule that may manage this workspace's tunnels.

The rule belongs to the organization and is not stored on the tunnel: what happens here is that the rule is enabled in
the workspace, and that its service account is a member of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from qanat.control.console.identity import read_rule
from qanat.control.console.pages import Visit
from qanat.control.errors import Invalid, NotFound
from qanat.control.nouns import Issuer, Rule, ServiceAccount
from qanat.control.operations.authentication import MANAGE_TUNNELS
from qanat.control.operations.pages import PageRequest

EVERYTHING = PageRequest(limit=100)
NEW = "new"
"""Chosen instead of a rule's id: create one."""
ROLE = "workspace_developer"


async def choices(visit: Visit) -> tuple[list[Rule], list[Issuer], list[ServiceAccount]]:
    """Rules with the scope, and what a new rule could be made of."""
    operations, actor = visit.operations, visit.actor
    rules = (await operations.rules.list_page(actor, None, EVERYTHING)).data
    issuers = (await operations.issuers.list_page(actor, EVERYTHING)).data
    accounts = (await operations.service_accounts.list_page(actor, EVERYTHING)).data
    return [rule for rule in rules if MANAGE_TUNNELS in rule.oauth_scope.split()], issuers, accounts


async def set_up(visit: Visit) -> None:
    """Enable the chosen rule, or a new one, here. Raises `Invalid` and what creating a rule raises."""
    operations, actor, workspace_id = visit.operations, visit.actor, visit.session.workspace_id
    chosen = visit.request.state.form.get("rule", "")
    if chosen == NEW:
        change = replace(read_rule(visit, "rule_name"), oauth_scope=MANAGE_TUNNELS)  # whatever the form said
        rule = await operations.rules.create(actor, change)
    else:
        rule = next((rule for rule in (await choices(visit))[0] if rule.id == chosen), None) or _no_rule()
        if not rule.applies_to_all_workspaces and workspace_id not in rule.workspace_ids:
            await operations.rules.add_workspace(actor, rule.id, workspace_id)
    account_id = rule.target.service_account_id
    try:
        await operations.workspaces.member(actor, workspace_id, account_id)
    except NotFound:
        await operations.workspaces.set_member(actor, workspace_id, account_id, ROLE, from_body="service_account_id")


def _no_rule() -> NoReturn:
    raise Invalid("rule", "choose a federation rule with the scope workspace:manage_tunnels, or create one")
