"""`qanat proxy`: the proxy alone, with the flags and exit codes of the reference proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_PATH = "/etc/mcp-gateway/config.yaml"


@app.command()
def proxy(
    config: Annotated[Path, typer.Option("--config", "-config", help="Configuration file.")] = Path(_PATH),
    tunnel_domain: Annotated[
        str, typer.Option("--tunnel-domain", "-tunnel-domain", help="Overrides tunnel_domain of the file.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", "-check", help="Check the configuration, print the routes, and stop.")
    ] = False,
    healthcheck: Annotated[
        bool, typer.Option("--healthcheck", "-healthcheck", help="Ask the running proxy whether it is ready, and stop.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", "-version", help="Print the version and stop.")] = False,
    allow_unknown_fields: Annotated[
        bool, typer.Option("--allow-unknown-fields", "-allow-unknown-fields", help="Ignore keys nobody knows.")
    ] = False,
) -> None:
    """Serve tunnel traffic: end inner TLS, choose the upstream by hostname, check its address, forward."""
    from qanat.proxy import command

    if version:
        typer.echo(command.version())
        return
    options = command.Options(config, tunnel_domain, allow_unknown_fields)
    if check:
        raise typer.Exit(command.check(options))
    if healthcheck:
        raise typer.Exit(command.healthcheck(options))
    raise typer.Exit(command.run(options))
