"""`qanat control`: run the control plane, and the commands an operator runs beside it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qanat.errors import ConfigInvalid, QanatError

if TYPE_CHECKING:
    from qanat.control.config import ControlConfig

app = typer.Typer(help="The control plane: Tunnels API, workload identity, console.", no_args_is_help=False)
ConfigFile = Annotated[
    Path | None, typer.Option("--config", envvar="QANAT_CONTROL_CONFIG", help="YAML file; see the reference.")
]


@app.callback(invoke_without_command=True)
def run(context: typer.Context, config: ConfigFile = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    settings = load_config(config)
    from qanat.log import setup_logging

    setup_logging()
    try:
        asyncio.run(_serve(settings))
    except (QanatError, OSError) as error:
        fail(error)


def load_config(path: Path | None) -> ControlConfig:
    """The configuration, or exit 2."""
    from qanat.config import load
    from qanat.control.config import ControlConfig

    if path is None:
        print("qanat control: --config FILE is required", file=sys.stderr)
        raise typer.Exit(2)
    try:
        return load(ControlConfig, path)
    except ConfigInvalid as error:
        print(f"qanat control: {path}:\n{error}", file=sys.stderr)
        raise typer.Exit(2) from None


def fail(error: Exception) -> None:
    """Exit 1 (2 when the configuration is to blame) with the error's sentence."""
    print(f"qanat control: {error}", file=sys.stderr)
    raise typer.Exit(2 if isinstance(error, ConfigInvalid) else 1)


async def _serve(config: ControlConfig) -> None:
    from qanat.control.server import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config) as server:
        print(f"bootstrap credential: {config.bootstrap_path}", file=sys.stderr) if config.bootstrap.enabled else None
        print(f"control plane at {server.url}", file=sys.stderr, flush=True)
        await stop.wait()
