"""`qanat rules list | create | show | archive | workspaces | enable`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qanat.cli.api_session import APICommands, confirm, get, get_all, misused, post, print_item, print_items
from qanat.cli.tunnels import All

app = APICommands("Federation rules: which identity tokens become which service account.")
API = "/v1/organizations/federation_rules"
RuleID = Annotated[str, typer.Argument(help="fdrl_…")]
COLUMNS = ("id", "name", "issuer_name", "oauth_scope", "created_at", "archived_at")


@app.command("list")
def list_rules(
    context: typer.Context,
    issuer: Annotated[str | None, typer.Option(help="Only rules of this issuer (fdis_…).")] = None,
    everything: All = False,
) -> None:
    """The organization's rules, newest first."""
    flag = "true" if everything else None
    print_items(context, get_all(context, API, issuer_id=issuer, include_archived=flag), COLUMNS)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits and hyphens.")],
    issuer: Annotated[str, typer.Option(help="fdis_…")],
    service_account: Annotated[str, typer.Option(help="svac_…")],
    scope: Annotated[str, typer.Option(help="Space-separated scopes.")] = "workspace:manage_tunnels",
    subject: Annotated[str | None, typer.Option(help="The sub; a last * makes it a prefix.")] = None,
    audience: Annotated[str | None, typer.Option(help="The aud; default: the control plane's address.")] = None,
    claim: Annotated[list[str] | None, typer.Option(help="name=value; repeat for more.")] = None,
    condition: Annotated[str | None, typer.Option(help="CEL over `claims`.")] = None,
    workspace: Annotated[str | None, typer.Option(help="wrkspc_…")] = None,
    all_workspaces: Annotated[bool, typer.Option("--all-workspaces", help="Enable it everywhere.")] = False,
    lifetime: Annotated[int | None, typer.Option(help="Seconds a token lives, 60 to 86400.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Let identity tokens that match become a service account."""
    match = {"subject_prefix": subject, "audience": audience, "claims": _claims(claim), "condition": condition}
    body: dict[str, Any] = {
        "name": name,
        "description": description,
        "issuer_id": issuer,
        "match": {key: value for key, value in match.items() if value is not None},
        "target": {"type": "service_account", "service_account_id": service_account},
        "oauth_scope": scope,
        "workspace_id": workspace,
        "applies_to_all_workspaces": True if all_workspaces else None,
        "token_lifetime_seconds": lifetime,
    }
    print_item(context, post(context, API, body))


def _claims(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    if not all("=" in pair for pair in pairs):
        misused("--claim is name=value")
    return dict(pair.split("=", 1) for pair in pairs)


@app.command()
def show(context: typer.Context, rule_id: RuleID) -> None:
    """One rule."""
    print_item(context, get(context, f"{API}/{rule_id}"))


@app.command()
def archive(context: typer.Context, rule_id: RuleID) -> None:
    """No more exchanges, for good; tokens given out live until they expire."""
    confirm(context, f"Archive {rule_id} for good?")
    print_item(context, post(context, f"{API}/{rule_id}/archive"))


@app.command()
def workspaces(context: typer.Context, rule_id: RuleID) -> None:
    """Where it is enabled."""
    items = get(context, f"{API}/{rule_id}/workspaces")["data"]
    print_items(context, items, ("workspace_id", "workspace_name", "created_at"))


@app.command()
def enable(
    context: typer.Context, rule_id: RuleID, workspace_id: Annotated[str, typer.Argument(help="wrkspc_…")]
) -> None:
    """Enable it for one more workspace."""
    print_item(context, post(context, f"{API}/{rule_id}/workspaces", {"workspace_id": workspace_id}))
