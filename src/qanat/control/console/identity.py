"""Workload identity: issuers, service accounts, rules, the history of exchanges, and a wizard that sets one up."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.responses import Response

from qanat.control.console.live import stream
from qanat.control.console.pages import Pages, Visit, go, render_part, show
from qanat.control.errors import Invalid, Refused
from qanat.control.nouns import AuthenticationEvent, Rule
from qanat.control.operations.authentication import MANAGE_TUNNELS, SCOPES
from qanat.control.operations.history import EventFilter
from qanat.control.operations.issuers import IssuerChange
from qanat.control.operations.pages import PageRequest
from qanat.control.operations.rules import RuleChange

EVERYTHING = PageRequest(limit=100)
LATEST = PageRequest(limit=20)


async def overview(visit: Visit, error: Refused | None = None) -> Response:
    """Everything on one page: the parts are few and belong together."""
    operations, actor = visit.operations, visit.actor
    rules = await operations.rules.list_page(actor, None, EVERYTHING)
    issuers = await operations.issuers.list_page(actor, EVERYTHING)
    accounts = await operations.service_accounts.list_page(actor, EVERYTHING)
    events = await operations.history.authentication_events(actor, LATEST, EventFilter())
    names = {rule.id: rule.name for rule in rules.data}
    return show(
        visit, "identity.html", error.status if error else 200, rules=rules.data, issuers=issuers.data,
        accounts=accounts.data, events=events.data, names=names, scopes=sorted(SCOPES), error=error,
        audience=operations.context.public_url,
    )  # fmt: skip


async def create_issuer(visit: Visit) -> Response:
    """Trust an OIDC issuer, its keys found by discovery."""
    return await _saved(visit, _new_issuer(visit))


async def _new_issuer(visit: Visit) -> str:
    form = visit.request.state.form
    change = IssuerChange(
        name=_required(form, "name"),
        issuer_url=_required(form, "issuer_url"),
        check_jti=form.get("check_jti") == "on",
    )
    return (await visit.operations.issuers.create(visit.actor, change)).id


async def create_account(visit: Visit) -> Response:
    """A service account in the current workspace."""
    return await _saved(visit, _new_account(visit))


async def _new_account(visit: Visit) -> str:
    form = visit.request.state.form
    account = await visit.operations.service_accounts.create(
        visit.actor, _required(form, "name"), form.get("description") or None, "developer"
    )
    return account.id


async def create_rule(visit: Visit) -> Response:
    """A rule from an issuer and a match to a service account and a scope."""
    return await _saved(visit, _new_rule(visit))


async def _new_rule(visit: Visit) -> str:
    return (await visit.operations.rules.create(visit.actor, read_rule(visit, "name"))).id


def read_rule(visit: Visit, name: str) -> RuleChange:
    """The rule in a form, for the current workspace; `name` is the field that holds its name. Raises `Invalid`."""
    form = visit.request.state.form
    match = {field: form[field] for field in ("subject_prefix", "audience", "condition") if form.get(field)}
    return RuleChange(
        name=_required(form, name),
        issuer_id=_required(form, "issuer_id"),
        match=match,
        service_account_id=_required(form, "service_account_id"),
        oauth_scope=form.get("oauth_scope") or MANAGE_TUNNELS,
        workspace_id=visit.session.workspace_id,
    )


async def archive(visit: Visit) -> Response:
    """Archive a rule, an issuer or a service account: exchanges by it stop at once."""
    kind, thing_id = visit.request.path_params["kind"], visit.request.path_params["thing_id"]
    operations = visit.operations
    archivers = {
        "rules": operations.rules.archive,
        "issuers": operations.issuers.archive,
        "accounts": operations.service_accounts.archive,
    }
    if kind not in archivers:
        raise Invalid("kind", f"must be one of {', '.join(archivers)}")
    try:
        await archivers[kind](visit.actor, thing_id)
    except Refused as error:
        return await overview(visit, error)
    return go("/identity", "removed")


async def wizard(visit: Visit) -> Response:
    """What a workload has to be told to use a rule, and whether it has succeeded yet."""
    rule = await visit.operations.rules.retrieve(visit.actor, visit.request.path_params["rule_id"])
    return show(
        visit, "connect.html", rule=rule, organization=visit.session.organization_id,
        url=visit.operations.context.public_url, latest=await latest_exchange(visit, rule),
    )  # fmt: skip


async def render_exchange(visit: Visit) -> str:
    """The live part of the wizard."""
    rule = await visit.operations.rules.retrieve(visit.actor, visit.request.path_params["rule_id"])
    return render_part("exchange.html", latest=await latest_exchange(visit, rule))


async def latest_exchange(visit: Visit, rule: Rule) -> AuthenticationEvent | None:
    """The newest attempt to use the rule, None before the first."""
    request, wanted = PageRequest(limit=1), EventFilter(rule_id=rule.id)
    found = await visit.operations.history.authentication_events(visit.actor, request, wanted)
    return found.data[0] if found.data else None


async def _saved(visit: Visit, work: Awaitable[str]) -> Response:
    try:
        await work
    except Refused as error:
        return await overview(visit, error)
    return go("/identity", "saved")


def _required(form: dict[str, str], name: str) -> str:
    value = form.get(name, "").strip()
    if not value:
        raise Invalid(name, "is required")
    return value


PAGES: Pages = {
    "/identity": {"GET": overview},
    "/identity/issuers": {"POST": create_issuer},
    "/identity/accounts": {"POST": create_account},
    "/identity/rules": {"POST": create_rule},
    "/identity/rules/{rule_id}/connect": {"GET": wizard},
    "/identity/rules/{rule_id}/live": {"GET": stream(render_exchange)},
    "/identity/{kind}/{thing_id}/archive": {"POST": archive},
}
