"""`qanat certificates list | add | show | archive`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qanat.cli.api_session import APICommands, confirm, get, get_all, misused, post, print_item, print_items
from qanat.cli.tunnels import All, TunnelID

app = APICommands("CA certificates registered on a tunnel.")
CertificateID = Annotated[str, typer.Argument(help="tcrt_…")]
COLUMNS = ("id", "fingerprint", "expires_at", "created_at", "archived_at")


@app.command("list")
def list_certificates(context: typer.Context, tunnel_id: TunnelID, everything: All = False) -> None:
    """The certificates of a tunnel, newest first."""
    path, flag = f"/v1/tunnels/{tunnel_id}/certificates", "true" if everything else None
    print_items(context, get_all(context, path, include_archived=flag), COLUMNS)


@app.command()
def add(
    context: typer.Context, tunnel_id: TunnelID, file: Annotated[Path, typer.Argument(help="PEM, one CA.")]
) -> None:
    """Register a CA: servers it signed directly are trusted on this tunnel."""
    try:
        pem = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return misused(f"{file}: {getattr(error, 'strerror', 'not text')}")
    print_item(context, post(context, f"/v1/tunnels/{tunnel_id}/certificates", {"ca_certificate_pem": pem}))
    return None


@app.command()
def show(context: typer.Context, tunnel_id: TunnelID, certificate_id: CertificateID) -> None:
    """One certificate."""
    print_item(context, get(context, f"/v1/tunnels/{tunnel_id}/certificates/{certificate_id}"))


@app.command()
def archive(context: typer.Context, tunnel_id: TunnelID, certificate_id: CertificateID) -> None:
    """Stop trusting a CA, for good."""
    confirm(context, f"Archive {certificate_id} of {tunnel_id} for good?")
    print_item(context, post(context, f"/v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive"))
