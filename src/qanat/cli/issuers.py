"""`qanat issuers list | create | show | resume | archive`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qanat.cli.api_session import APICommands, confirm, get, get_all, misused, post, print_item, print_items
from qanat.cli.tunnels import All

app = APICommands("Federation issuers: whose identity tokens are believed.")
API = "/v1/organizations/federation_issuers"
IssuerID = Annotated[str, typer.Argument(help="fdis_…")]
COLUMNS = ("id", "name", "issuer_url", "created_at", "archived_at")


@app.command("list")
def list_issuers(context: typer.Context, everything: All = False) -> None:
    """The organization's issuers, newest first."""
    print_items(context, get_all(context, API, include_archived="true" if everything else None), COLUMNS)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits and hyphens.")],
    issuer_url: Annotated[str, typer.Argument(help="Exactly as in the tokens' iss.")],
    jwks_url: Annotated[str | None, typer.Option(help="Fetch keys here instead of by discovery.")] = None,
    jwks_file: Annotated[
        Path | None, typer.Option(help="Take the keys from this JWKS file; nothing is fetched.")
    ] = None,
    discovery_base: Annotated[str | None, typer.Option(help="Discover here instead of at the issuer URL.")] = None,
    jwks_ca_file: Annotated[Path | None, typer.Option(help="PEM to verify the issuer's TLS with.")] = None,
    check_jti: Annotated[bool, typer.Option(help="A token with a jti buys one access token only.")] = True,
    max_jwt_lifetime: Annotated[int | None, typer.Option(help="Seconds, at most 176400.")] = None,
) -> None:
    """Believe an issuer. For Kubernetes: --jwks-file and --no-check-jti."""
    if sum(option is not None for option in (jwks_url, jwks_file, discovery_base)) > 1:
        misused("give one of --jwks-url, --jwks-file and --discovery-base")
    jwks: dict[str, Any] = {"type": "discovery", "discovery_base": discovery_base}
    if jwks_url is not None:
        jwks = {"type": "explicit_url", "url": jwks_url}
    if jwks_file is not None:
        jwks = {"type": "inline", "keys": _keys(jwks_file)}
    if jwks_ca_file is not None:
        jwks["ca_cert_pem"] = _read(jwks_ca_file)
    body = {
        "name": name,
        "issuer_url": issuer_url,
        "jwks": jwks,
        "check_jti": check_jti,
        "max_jwt_lifetime_seconds": max_jwt_lifetime,
    }
    print_item(context, post(context, API, body))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        misused(f"{path}: {getattr(error, 'strerror', 'not text')}")
        raise


def _keys(path: Path) -> list[Any]:
    try:
        keys = json.loads(_read(path))
        keys = keys["keys"] if isinstance(keys, dict) else keys
    except (ValueError, KeyError):
        keys = None
    if not isinstance(keys, list):
        misused(f"{path}: not a JWKS")
    return list(keys or [])


@app.command()
def show(context: typer.Context, issuer_id: IssuerID) -> None:
    """One issuer."""
    print_item(context, get(context, f"{API}/{issuer_id}"))


@app.command()
def resume(context: typer.Context, issuer_id: IssuerID) -> None:
    """Poll its keys again, after polling was paused for failures."""
    print_item(context, post(context, f"{API}/{issuer_id}", {"jwks_polling_disabled": False}))


@app.command()
def archive(context: typer.Context, issuer_id: IssuerID) -> None:
    """Stop believing it, for good."""
    confirm(context, f"Archive {issuer_id} for good?")
    print_item(context, post(context, f"{API}/{issuer_id}/archive"))
