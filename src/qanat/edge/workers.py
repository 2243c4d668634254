"""Several edge processes on one machine, each a node of the cluster like any other, sharing its ports.

The parent only starts, restarts and stops them: the kernel spreads connections over those that listen.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from qanat.edge.config import EdgeConfig, parse_listen
from qanat.log import get_logger

RESTART_SECONDS = 1.0
"""Pause before a worker that died is started again."""
MISUSED = 2
NUMBER_VARIABLE = "QANAT_EDGE_WORKER"

_log = get_logger("qanat.edge")


def for_worker(config: EdgeConfig, number: int) -> EdgeConfig:
    """The configuration of worker `number` (from 0): its own name, and its own port wherever it is dialled itself."""
    changes: dict[str, object] = {"name": f"{config.name}-{number}"}
    if config.cluster is not None:
        changes["cluster"] = config.cluster.model_copy(
            update={"listen_addr": _shift(config.cluster.listen_addr, number)}
        )
    if config.metrics_addr is not None:
        changes["metrics_addr"] = _shift(config.metrics_addr, number)
    return config.model_copy(update=changes)


def _shift(address: str, number: int) -> str:
    host, port = parse_listen(address)
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port + number if port else 0}"


def worker_number() -> int | None:
    """Which worker this process is; None when it is none."""
    text = os.environ.get(NUMBER_VARIABLE)
    return None if text is None else int(text)


async def supervise(path: Path, workers: int) -> int:
    """Run that many workers until SIGTERM or SIGINT, then drain them all at once. Returns the exit status."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    command = (sys.executable, "-m", "qanat", "edge", "--config", str(path))
    return max(await asyncio.gather(*(_keep_running(command, index, stop) for index in range(workers))))


async def _keep_running(command: Sequence[str], number: int, stop: asyncio.Event) -> int:
    """One worker after the other, until `stop` is set or one says that the configuration is wrong: then all stop."""
    status = 0
    stopping = asyncio.ensure_future(stop.wait())
    while not stop.is_set():
        environment = os.environ | {NUMBER_VARIABLE: str(number)}
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
        status = await ended
        if status == MISUSED:
            stop.set()
        if not stop.is_set():
            _log.error("worker died, starting another", worker=number, status=status)
            await asyncio.wait({stopping}, timeout=RESTART_SECONDS)
    stopping.cancel()
    return abs(status)
