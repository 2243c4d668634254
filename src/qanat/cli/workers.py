"""`qanat join --workers N`: replicas of `join` on one machine, because one Python process uses one core.

The parent starts, restarts and stops them, and carries no call itself. They share nothing: what holds for replicas on
several machines holds for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from qanat.connector.config import ConnectorConfig, join_host_port, split_host_port
from qanat.errors import ConfigInvalid
from qanat.log import get_logger
from qanat.proxy.config import ProxyConfig

VARIABLE = "QANAT_JOIN_WORKER"
"""What the parent tells a worker: `index/count/descriptor`, the descriptor being a pipe that ends with the parent."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a worker that was killed is started again: doubled each time, until one has lived for the longest."""
MARGIN = timedelta(seconds=5)
"""What a worker may need to stop beyond the time its calls and streams get."""
FIX = "use --workers 1, or replicas with files of their own"

_log = get_logger("qanat.cli")
Settings = tuple[ProxyConfig, ConnectorConfig]


@dataclass(frozen=True, slots=True)
class Worker:
    """Which worker this process is, of how many, and where it hears of its parent's end."""

    index: int
    count: int
    lifeline: int


def this_worker() -> Worker | None:
    """The worker that this process was started as, or None. Raises `ConfigInvalid` when it was told nonsense."""
    text = os.environ.pop(VARIABLE, None)
    try:
        return None if text is None else Worker(*map(int, text.split("/")))
    except (ValueError, TypeError):
        raise ConfigInvalid([f"{VARIABLE}: qanat sets it for workers, nobody else should"]) from None


def stop_with_parent(lifeline: int, stop: Callable[[], None]) -> None:
    """Have a worker stop once its parent is gone, however that ended: the pipe between them ends too."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(lifeline)
        _log.error("the parent is gone, stopping")
        stop()

    loop.add_reader(lifeline, ended)


def for_worker(settings: Settings, index: int, count: int) -> Settings:
    """The configuration of worker `index` of `count`: its share of the connections, and its own ports.

    Raises `ConfigInvalid` for what cannot be had by several processes.
    """
    proxy, connector = settings
    problems = [problem for name in proxy.routes for problem in _bound_to_one(proxy, name)]
    share: dict[str, object] = {"ha_connections": -(-connector.ha_connections // count)}
    if connector.metrics is not None:
        host, port = split_host_port(connector.metrics, 0)
        share["metrics"] = join_host_port(host, _shift("connector.metrics", port, index, problems))
        if proxy.admin is not None and port and 0 < abs(port - proxy.admin.listen_addr[1]) < count:
            problems.append(f"admin.listen_addr and connector.metrics: {count} workers need ports {count} apart")
    if proxy.admin is not None:
        host, port = proxy.admin.listen_addr
        address = host, _shift("admin.listen_addr", port, index, problems)
        proxy = proxy.model_copy(update={"admin": proxy.admin.model_copy(update={"listen_addr": address})})
    if problems:
        raise ConfigInvalid(problems)
    return proxy, connector.model_copy(update=share)


def _bound_to_one(proxy: ProxyConfig, name: str) -> list[str]:
    route, found = proxy.routes[name], []
    if route.audit is not None:
        found.append(f"routes.{name}.audit: one process must write the whole chain; {FIX}")
    if route.stdio is not None:
        found.append(f"routes.{name}.stdio: the program's sessions live in one process; {FIX}")
    return found


def _shift(key: str, port: int, index: int, problems: list[str]) -> int:
    if port and port + index > 65535:
        problems.append(f"{key}: worker {index} would need port {port + index}; choose a lower one")
    return port + index if port else 0


async def supervise(settings: Settings, count: int) -> int:
    """Run this command `count` times, just as it was called, until a signal or until one gives up: the exit code."""
    patience = max(settings[0].shutdown_timeout, settings[1].grace_period) + MARGIN
    supervisor = Supervisor((sys.executable, *sys.orig_argv[1:]), count, patience.total_seconds())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    return await supervisor.run()


class Supervisor:
    """Keeps the workers running. `patience` is how many seconds they get to stop."""

    def __init__(self, command: Sequence[str], count: int, patience: float) -> None:
        self._command, self._count, self._patience = command, count, patience
        self._stopping, self._killing = asyncio.Event(), asyncio.Event()
        self._asked = False  # stopping alone does not tell: one that gave up may have brought it about
        self._running: dict[int, asyncio.subprocess.Process] = {}

    def stop(self) -> None:
        """Let all workers stop gracefully; the second time, kill them."""
        if self._asked:
            self._killing.set()
        self._asked = True
        self._stopping.set()

    def reload(self) -> None:
        """Have all workers look at the configuration file now."""
        for process in self._running.values():
            _send(process, signal.SIGHUP)

    async def run(self) -> int:
        """Return once all have ended: the highest of their exit codes, or 1 when one had to be killed."""
        lifeline, held = os.pipe()
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(index, lifeline)) for index in range(self._count)]
            return max(keeper.result() for keeper in keepers)
        finally:
            os.close(lifeline)
            os.close(held)

    async def _keep(self, index: int, lifeline: int) -> int:
        """One worker after the other, until all are to stop or one ends by its own will: then all are."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while not self._stopping.is_set():
            started = loop.time()
            try:
                code = await self._run_one(index, lifeline)
            except OSError as error:  # no memory, no more processes: the others run on
                _log.error("worker cannot be started", worker=index, reason=error.strerror, wait=pause)
            else:
                if self._stopping.is_set():
                    return _exit_code(code)
                if code >= 0:
                    _log.warn("worker ended, stopping the others", worker=index, code=code)
                    self._stopping.set()
                    return code
                if loop.time() - started > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                _log.error("worker was killed, starting another", worker=index, signal=-code, wait=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return 0

    async def _run_one(self, index: int, lifeline: int) -> int:
        """Start a worker and wait for its end, which is ours to bring about once all are to stop. Raises `OSError`."""
        environment = os.environ | {VARIABLE: f"{index}/{self._count}/{lifeline}"}
        process = await asyncio.create_subprocess_exec(
            *self._command, env=environment, pass_fds=(lifeline,), start_new_session=True
        )  # in a session of its own, a terminal's Ctrl-C does not reach it
        self._running[index] = process
        _log.info("worker started", worker=index, pid=process.pid)
        ended = asyncio.ensure_future(process.wait())
        try:
            if not await _ends_before(ended, self._stopping):
                _send(process, signal.SIGTERM)
                if not await _ends_before(ended, self._killing, self._patience):
                    _log.error("worker did not stop, killing it", worker=index)
                    _send(process, signal.SIGKILL)
            return await ended
        finally:
            _send(process, signal.SIGKILL)
            await process.wait()
            del self._running[index]


async def _ends_before(ended: asyncio.Future[int], event: asyncio.Event, timeout: float | None = None) -> bool:
    """Wait for a process's end or an event; whether it was the end."""
    happening: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({ended, happening}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happening.cancel()
    return ended.done()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # `send_signal` would look for its end first, and take the exit code from the one who waits for it.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _exit_code(code: int) -> int:
    """What the end of a worker says. SIGTERM may have come before it listened; who had to be killed did not stop."""
    return code if code >= 0 else int(code != -signal.SIGTERM)
