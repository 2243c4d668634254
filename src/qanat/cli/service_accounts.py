"""`qanat service-accounts list | create | show | update | archive | workspaces | join`."""

from __future__ import annotations

from typing import Annotated

import typer

from qanat.cli.api_session import APICommands, confirm, get, get_all, post, print_item, print_items
from qanat.cli.tunnels import All

app = APICommands("Service accounts: who a federated token acts as.")
API = "/v1/organizations/service_accounts"
AccountID = Annotated[str, typer.Argument(help="svac_…")]
Role = Annotated[str | None, typer.Option(help="developer or admin.")]
COLUMNS = ("id", "name", "organization_role", "created_at", "archived_at")


@app.command("list")
def list_accounts(context: typer.Context, everything: All = False) -> None:
    """The organization's service accounts, newest first."""
    print_items(context, get_all(context, API, include_archived="true" if everything else None), COLUMNS)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits and hyphens.")],
    description: Annotated[str | None, typer.Option()] = None,
    role: Role = None,
) -> None:
    """A new service account."""
    print_item(context, post(context, API, {"name": name, "description": description, "organization_role": role}))


@app.command()
def show(context: typer.Context, account_id: AccountID) -> None:
    """One service account."""
    print_item(context, get(context, f"{API}/{account_id}"))


@app.command()
def update(
    context: typer.Context,
    account_id: AccountID,
    description: Annotated[str | None, typer.Option()] = None,
    role: Role = None,
) -> None:
    """Change description or role."""
    body = {"description": description, "organization_role": role}
    print_item(context, post(context, f"{API}/{account_id}", body))


@app.command()
def archive(context: typer.Context, account_id: AccountID) -> None:
    """Retire it for good; its tokens stop working."""
    confirm(context, f"Archive {account_id} for good?")
    print_item(context, post(context, f"{API}/{account_id}/archive"))


@app.command()
def workspaces(context: typer.Context, account_id: AccountID) -> None:
    """The workspaces it is a member of."""
    columns = ("workspace_id", "workspace_role", "implicit")
    print_items(context, get_all(context, f"{API}/{account_id}/workspaces"), columns)


@app.command()
def join(
    context: typer.Context,
    account_id: AccountID,
    workspace_id: Annotated[str, typer.Argument(help="wrkspc_…")],
    role: Annotated[str, typer.Option()] = "workspace_developer",
) -> None:
    """Make it a member of a workspace, or give it another role there."""
    body = {"workspace_id": workspace_id, "workspace_role": role}
    print_item(context, post(context, f"{API}/{account_id}/workspaces", body))
