"""`qanat keys list | create | create-tunnels-key | set-status | tokens | revoke`. For operators."""

from __future__ import annotations

from typing import Annotated

import typer

from qanat.cli.api_session import APICommands, confirm, get_all, post, print_item, print_items
from qanat.cli.tunnels import All

app = APICommands("API keys and Tunnels API keys.")
Name = Annotated[str, typer.Argument(help="A name for people.")]
Workspace = Annotated[str | None, typer.Option(help="wrkspc_…; default: the default workspace.")]


@app.command("list")
def list_keys(context: typer.Context, everything: All = False) -> None:
    """API keys, newest first."""
    columns = ("id", "name", "status", "partial_key_hint", "workspace_id", "expires_at")
    flag = "true" if everything else None
    print_items(context, get_all(context, "/admin/v1/api_keys", include_archived=flag), columns)


@app.command()
def create(
    context: typer.Context,
    name: Name,
    workspace: Workspace = None,
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339, e.g. 2027-01-01T00:00:00Z.")] = None,
) -> None:
    """An API key for the Messages API. It is shown this once."""
    body = {"name": name, "workspace_id": workspace, "expires_at": expires_at}
    print_item(context, post(context, "/admin/v1/api_keys", body))


@app.command("set-status")
def set_status(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="apikey_…")],
    status: Annotated[str, typer.Argument(help="active, inactive, or archived (for good).")],
) -> None:
    """Switch an API key off, on, or off for good."""
    print_item(context, post(context, f"/admin/v1/api_keys/{key_id}", {"status": status}))


@app.command("create-tunnels-key")
def create_tunnels_key(
    context: typer.Context,
    name: Name,
    workspace: Workspace = None,
    lifetime: Annotated[int, typer.Option(help="Seconds, 300 to 86400.")] = 3600,
) -> None:
    """A short-lived bearer that manages the tunnels of one workspace. It is shown this once."""
    body = {"name": name, "workspace_id": workspace, "lifetime_seconds": lifetime}
    print_item(context, post(context, "/admin/v1/tunnels_api_keys", body))


@app.command()
def tokens(context: typer.Context, everything: All = False) -> None:
    """Bearer tokens given out, newest first."""
    columns = ("id", "kind", "name", "subject", "workspace_id", "expires_at", "revoked_at")
    flag = "true" if everything else None
    print_items(context, get_all(context, "/admin/v1/access_tokens", include_archived=flag), columns)


@app.command()
def revoke(context: typer.Context, token_id: Annotated[str, typer.Argument(help="oat_…")]) -> None:
    """Refuse a bearer token from now on."""
    confirm(context, f"Revoke {token_id}?")
    print_item(context, post(context, f"/admin/v1/access_tokens/{token_id}/revoke"))
