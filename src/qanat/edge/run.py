"""`qanat edge` as a process: signals, metrics, one loop per worker."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import prometheus_client
import uvloop

from qanat.config import load
from qanat.edge.config import EdgeConfig, parse_listen
from qanat.edge.server import serve
from qanat.edge.workers import for_worker
from qanat.errors import ConfigInvalid
from qanat.log import setup_logging
from qanat.logger import get_logger
from qanat.net.process import freeze_start, use_large_blocks
from qanat.net.workers import MISUSED, Worker, stop_with_parent, supervise, this_worker

_log = get_logger("qanat.edge")


def run(path: Path, workers: int) -> int:
    """Run until SIGTERM or SIGINT; a second signal ends at once. Returns the exit status. Raises `ConfigInvalid`."""
    worker = this_worker()
    config = load(EdgeConfig, path)
    setup_logging(config.log_level, config.log_format, shared=workers > 1)
    if worker is not None:
        config = for_worker(config, worker.index, worker.count)
    elif workers > 1:
        if config.cluster is None:
            raise ConfigInvalid(["cluster is required for more than one worker"])
        for_worker(config, workers - 1, workers)  # what no worker could use; the last has the highest ports
        return asyncio.run(supervise(workers, config.drain_timeout.total_seconds(), lambda code: code == MISUSED))
    use_large_blocks()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_node(config, worker))
    except OSError as error:
        _log.error("edge stopped", error=str(error))
        return 1
    return 0


async def run_node(config: EdgeConfig, worker: Worker | None = None) -> None:
    """One node from start to drained, alone or as one of several on its ports."""
    loop = asyncio.get_running_loop()
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    if worker is not None:
        stop_with_parent(worker.lifeline, stop.set)
    async with serve(config, reuse_port=worker is not None) as edge:
        metrics = None
        if config.metrics_addr is not None:
            host, port = parse_listen(config.metrics_addr)
            metrics = prometheus_client.start_http_server(port, host or "0.0.0.0", edge.metrics.registry)  # noqa: S104 - as configured
            _log.info("metrics listening", port=metrics[0].server_port)
        freeze_start()
        await stop.wait()
        tasks: set[asyncio.Task[Any]] = {asyncio.create_task(edge.drain()), asyncio.create_task(stop_now.wait())}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if metrics is not None:
            metrics[0].shutdown()
            metrics[0].server_close()
