"""`qanat gateway`: the Messages API with the MCP connector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qanat.log import setup_logging
from qanat.logger import Level

app = typer.Typer(add_completion=False)


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The configuration file (YAML).", envvar="QANAT_GATEWAY_CONFIG")],
    log_level: Annotated[Level, typer.Option(help="debug, info, warn or error.", envvar="QANAT_LOG_LEVEL")] = "info",
) -> None:
    """Serve the Messages API: run the tool loop, and reach MCP servers through their tunnels."""
    import asyncio
    import sys

    import uvloop

    from qanat.config import load
    from qanat.errors import ConfigInvalid
    from qanat.gateway.config import GatewayConfig

    setup_logging(log_level)
    try:
        loaded = load(GatewayConfig, config)
    except ConfigInvalid as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(loaded))
    except (ConfigInvalid, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


async def _serve(config: object) -> None:
    import asyncio
    import signal

    from qanat.gateway.config import GatewayConfig
    from qanat.gateway.server import serve

    assert isinstance(config, GatewayConfig)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config):
        await stop.wait()
