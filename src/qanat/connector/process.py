"""The connector as a process of its own: signals, event loop, exit."""

from __future__ import annotations

import asyncio
import signal

import uvloop

from qanat.connector.config import ConnectorConfig
from qanat.connector.server import Connector
from qanat.logger import get_logger
from qanat.net.process import freeze_start, use_large_blocks

log = get_logger("qanat.connector")


def run_until_stopped(config: ConnectorConfig) -> None:
    """Run until SIGTERM or SIGINT, then stop gracefully; a second signal stops at once.

    Raises what `Connector.start` raises.
    """
    use_large_blocks()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config))


async def _run(config: ConnectorConfig) -> None:
    loop, signalled = asyncio.get_running_loop(), asyncio.Event()
    at_once = asyncio.Event()

    def stop() -> None:
        (at_once if signalled.is_set() else signalled).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    connector = Connector(config)
    await connector.start()
    freeze_start()
    stopped = asyncio.create_task(connector.wait_stopped())
    asked = asyncio.create_task(signalled.wait())
    await asyncio.wait((stopped, asked), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if asked.done():
        log.info("Initiating graceful shutdown due to signal", grace=config.grace_period)
    asked.cancel()
    stopping = asyncio.create_task(connector.stop())
    impatient = asyncio.create_task(at_once.wait())
    await asyncio.wait((stopping, impatient), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await connector.abort()
    impatient.cancel()
    if not stopping.cancelled():
        stopping.result()
