"""`qanat tunnels list | create | show | archive | reveal-token | rotate-token`."""

from __future__ import annotations

from typing import Annotated

import typer

from qanat.cli.api_session import APICommands, confirm, get, get_all, post, print_item, print_items

app = APICommands("List, create, show, archive tunnels; rotate and reveal tokens.")
TunnelID = Annotated[str, typer.Argument(help="tnl_…")]
All = Annotated[bool, typer.Option("--all", help="Archived ones too.")]
COLUMNS = ("id", "display_name", "domain", "created_at", "archived_at")


@app.command("list")
def list_tunnels(context: typer.Context, everything: All = False) -> None:
    """The tunnels of the workspace, newest first."""
    flag = "true" if everything else None
    print_items(context, get_all(context, "/v1/tunnels", include_archived=flag), COLUMNS)


@app.command()
def create(
    context: typer.Context, name: Annotated[str | None, typer.Argument(help="A name for people.")] = None
) -> None:
    """A new tunnel. It carries nothing until it has a CA certificate."""
    print_item(context, post(context, "/v1/tunnels", {"display_name": name}))


@app.command()
def show(context: typer.Context, tunnel_id: TunnelID) -> None:
    """One tunnel."""
    print_item(context, get(context, f"/v1/tunnels/{tunnel_id}"))


@app.command()
def archive(context: typer.Context, tunnel_id: TunnelID) -> None:
    """Retire a tunnel for good: its domain, token and certificates never work again."""
    confirm(context, f"Archive {tunnel_id} for good?")
    print_item(context, post(context, f"/v1/tunnels/{tunnel_id}/archive"))


@app.command("reveal-token")
def reveal_token(context: typer.Context, tunnel_id: TunnelID) -> None:
    """The token a connector signs in with."""
    print_item(context, post(context, f"/v1/tunnels/{tunnel_id}/reveal_token"))


@app.command("rotate-token")
def rotate_token(
    context: typer.Context,
    tunnel_id: TunnelID,
    reason: Annotated[str | None, typer.Option(help="For the audit trail.")] = None,
) -> None:
    """A new token; the old one opens no new connection."""
    print_item(context, post(context, f"/v1/tunnels/{tunnel_id}/rotate_token", {"reason": reason}))
