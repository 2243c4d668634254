"""`qanat edge`: run an edge node, and make the certificates it needs."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from qanat.config import parse_duration
from qanat.errors import QanatError

app = typer.Typer(help="The edge: meets connectors and clients.", no_args_is_help=True, add_completion=False)


@app.callback(invoke_without_command=True)
def edge(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", envvar="QANAT_EDGE_CONFIG", help="The YAML file.")] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes; more than one needs `cluster` in the file.")
    ] = 1,
) -> None:
    """Run the edge until SIGTERM, then drain."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        _fail("--config is required", 2)
    from qanat.edge.run import run

    try:
        raise typer.Exit(run(config, workers))
    except QanatError as error:
        _fail(str(error), 2)


@app.command()
def pki(
    directory: Annotated[Path, typer.Option("--directory", help="Where to write; made if missing.")],
    base_domain: Annotated[str, typer.Option("--base-domain", help="Tunnel domains are <label>.<base-domain>.")],
) -> None:
    """Make a fresh set of operator certificates."""
    from qanat.edge.operator_pki import make

    try:
        for path in make(directory, base_domain):
            print(path)
    except (QanatError, OSError) as error:
        _fail(str(error), 1)


@app.command("client-cert")
def client_cert(
    name: Annotated[str, typer.Option("--name", help="The DNS name in the certificate: what `san` refers to.")],
    ca: Annotated[Path, typer.Option("--ca", help="The client CA's certificate.")],
    ca_key: Annotated[Path, typer.Option("--ca-key", help="The client CA's key.")],
    output: Annotated[Path, typer.Option("--output", help="Writes OUTPUT.pem and OUTPUT-key.pem.")],
    lifetime: Annotated[str, typer.Option("--lifetime", help="Such as 2160h.")] = "2160h",
) -> None:
    """Issue a client certificate for outer mTLS."""
    from qanat.edge.operator_pki import make_client

    try:
        period: timedelta = parse_duration(lifetime)
    except ValueError as error:
        _fail(f"--lifetime: {error}", 2)
    if period < timedelta(minutes=1):
        _fail("--lifetime: at least one minute", 2)
    try:
        for path in make_client((ca, ca_key), name, output, period):
            print(path)
    except (QanatError, OSError) as error:
        _fail(str(error), 1)


def _fail(message: str, status: int) -> NoReturn:
    print(f"qanat edge: {message}", file=sys.stderr)
    raise typer.Exit(status)
