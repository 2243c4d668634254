"""`qanat doctor`: check a deployment hop by hop, in the order of a request, and name the first that fails."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qanat.cli.doctor_hops import Check, Finding, Place

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@app.command()
def doctor(
    data: Annotated[Path | None, typer.Option(help="Folder that `qanat setup` filled.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file of the proxy or of `qanat join`.")] = None,
    tunnel_domain: Annotated[str, typer.Option(help="By default the one in the data folder.")] = "",
    edge: Annotated[list[str] | None, typer.Option(envvar="TUNNEL_EDGE", help="Edge as host:port; repeatable.")] = None,
    cacert: Annotated[Path | None, typer.Option(envvar="TUNNEL_CACERT", help="PEM roots for the edge.")] = None,
    ready: Annotated[str, typer.Option(help="The connector's /ready, such as http://127.0.0.1:20241/ready.")] = "",
    api_url: Annotated[str, typer.Option(envvar="API_URL", help="Tunnels API; asked with API_TOKEN.")] = "",
    api_ca: Annotated[Path | None, typer.Option(envvar="API_CA_FILE", help="CA certificates for the API.")] = None,
    client_listener: Annotated[str, typer.Option(help="The edge's client listener, host:port, for a call.")] = "",
    client_cert: Annotated[Path | None, typer.Option(help="Client certificate for that.")] = None,
    client_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    client_ca: Annotated[Path | None, typer.Option(help="PEM roots for the client listener.")] = None,
    route: Annotated[str, typer.Option(help="The route to call.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for each step.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per finding.")] = False,
) -> None:
    """Check what the given options make it possible to check; exit 1 when a hop fails.

    `qanat doctor --data data --config mcp-proxy.yaml --edge edge.example.net:7844`
    """
    from qanat.cli.doctor_hops import Place

    place = Place(
        data=data,
        config=config,
        tunnel_domain=tunnel_domain,
        edges=tuple(part for value in edge or () for part in value.split(",") if part),
        cacert=cacert,
        ready=ready,
        api_url=api_url,
        api_token=os.environ.get("API_TOKEN", ""),
        api_ca=api_ca,
        client_listener=client_listener,
        client_files=(client_cert, client_key) if client_cert and client_key else None,
        client_ca=client_ca,
        route=route,
        timeout=timeout,
    )
    checks = choose(place)
    if not checks:
        typer.echo("nothing to check: give --data, --config, --edge or --ready (see --help)", err=True)
        raise typer.Exit(2)
    findings = asyncio.run(examine(place, checks))
    _print(findings, as_json)
    raise typer.Exit(any(finding.verdict == "fail" for finding in findings))


def choose(place: Place) -> list[Check]:
    """The checks that can be made, in the order of a request."""
    from qanat.cli import doctor_hops as hops

    stored, called = place.data is not None, place.client_listener and place.client_files and place.route
    table: list[tuple[object, Check]] = [
        (stored, hops.check_files),
        (stored, hops.check_token),
        (stored, hops.check_certificate),
        (stored and place.api_url and place.api_token, hops.check_api),
        (place.edges, hops.check_edge),
        (place.ready, hops.check_connector),
        (place.config, hops.check_proxy),
        (place.config, hops.check_upstreams),
        (stored and called, hops.check_call),
    ]
    return [check for wanted, check in table if wanted]


async def examine(place: Place, checks: list[Check]) -> list[Finding]:
    """Every finding, in the order of a request."""
    return [finding for check in checks for finding in await check(place)]


def _print(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        for finding in findings:
            typer.echo(json.dumps(asdict(finding)))
        return
    for finding in findings:
        typer.echo(f"{MARKS[finding.verdict]}  {finding.hop:<12}{finding.text}")
    failed = [finding.hop for finding in findings if finding.verdict == "fail"]
    typer.echo(f"\nfirst failing hop: {failed[0]}" if failed else "\nevery hop that was checked works")
