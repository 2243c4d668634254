"""`qanat control`: run the control plane, and the commands an operator runs beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qanat.errors import ConfigInvalid, QanatError

if TYPE_CHECKING:
    from qanat.control.config import ControlConfig

app = typer.Typer(help="The control plane: Tunnels API, workload identity, console.", add_completion=False)
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


def _with_config(context: typer.Context) -> ControlConfig:
    path = context.obj
    assert path is None or isinstance(path, Path)
    return load_config(path)


@app.command("rotate-master-key")
def rotate_master_key(context: typer.Context) -> None:
    """Make a new master key, or take that of next_master_key_file, and seal every secret again.

    Running control planes need not stop.
    """
    config = _with_config(context)

    async def work() -> None:
        from qanat.control.operations.rotation import rotate_master_key
        from qanat.control.server import open_operations

        async with open_operations(config) as (operations, found):
            key_id, count = await rotate_master_key(operations.context, found.organization_id)
        place = config.next_master_key_file or config.master_key_path
        print(f"master key {key_id} in {place}; {count} values sealed again")
        if config.next_master_key_file is not None:
            print("now make this file master_key_file, and take next_master_key_file away")

    _run(work())


@app.command()
def backup(context: typer.Context, file: Annotated[Path, typer.Argument(help="Must not exist yet.")]) -> None:
    """Write the whole store to a file, secrets still sealed. Keep the master key file elsewhere."""
    config = _with_config(context)

    async def work() -> None:
        from qanat.control.operations.backup import back_up
        from qanat.control.server import open_database

        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            async with open_database(config) as database:
                count = await back_up(database, out)
        print(f"{count} rows in {file}")

    _run(work())


@app.command()
def restore(context: typer.Context, file: Annotated[Path, typer.Argument(help="A backup.")]) -> None:
    """Fill an empty database from a backup; it may be of the other kind. Needs the backup's master key file."""
    config = _with_config(context)

    async def work() -> None:
        import secrets

        from qanat.control.operations.backup import restore
        from qanat.control.server import open_database
        from qanat.control.store.vault import Vault

        with file.open("rb") as source:
            async with open_database(config) as database:
                count = await restore(database, source, config.master_key_paths, Vault(secrets.token_bytes))
        print(f"{count} rows restored")

    _run(work())


@app.command()
def migrate(context: typer.Context) -> None:
    """Bring the database's schema up to date, and stop. Starting a control plane does so too."""
    config = _with_config(context)

    async def work() -> None:
        from qanat.control.server import open_database

        async with open_database(config):
            print("the schema is up to date")

    _run(work())


@app.command("operator-token")
def operator_token(context: typer.Context) -> None:
    """Print a token with an operator's rights, good for an hour. For whoever stands at the server; it is audited."""
    config = _with_config(context)

    async def work() -> None:
        from qanat.control.operations.context import Actor
        from qanat.control.server import open_operations

        async with open_operations(config) as (operations, found):
            actor = Actor(id="local", kind="local", organization_id=found.organization_id)
            made = await operations.keys.create_operator_token(actor)
        assert made.token is not None
        print(made.token.get_secret_value())

    _run(work())


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except (QanatError, OSError) as error:
        fail(error)
