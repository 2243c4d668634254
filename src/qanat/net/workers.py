"""Several processes of one command on one machine, because one Python process uses one core.

The parent starts, restarts and stops them, and carries nothing itself. They share nothing: what holds for replicas on
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
from typing import Any

from qanat.errors import ConfigInvalid
from qanat.logger import get_logger

VARIABLE = "QANAT_WORKER"
"""What the parent tells a worker: `index/count/descriptor`, the descriptor being a pipe that ends with the parent."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a worker is started again: doubled each time, until one has lived for the longest."""
MISUSED = 2
"""The exit code of a command that refuses its configuration."""
MARGIN = 5.0
"""Seconds that a worker may need to stop beyond those that its calls and streams get."""

_log = get_logger("qanat.workers")


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


def hear_reloads(reload: Callable[[], None]) -> None:
    """Have `reload` called at each SIGHUP, also at one that came since the parent started this process."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))


def any_end(code: int) -> bool:
    """A worker that ends by itself has given up, whatever it says."""
    return True


async def supervise(
    count: int, patience: float, gives_up: Callable[[int], bool] = any_end, *, reloads: bool = False
) -> int:
    """Run this command `count` times, just as it was called, until a signal or until one gives up: the exit code.

    `patience` is how many seconds a worker's calls get when it is to stop. `gives_up` tells of an exit code whether all
    are to stop. With `reloads` the workers get the parent's SIGHUP.
    """
    supervisor = Supervisor((sys.executable, *sys.orig_argv[1:]), count, patience + MARGIN, gives_up)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    if reloads:
        loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    return await supervisor.run()


class Supervisor:
    """Keeps the workers running. `patience` is how many seconds they get to stop.

    On asyncio's own loop: uvloop would unblock what a worker is not to hear yet.
    """

    def __init__(
        self, command: Sequence[str], count: int, patience: float, gives_up: Callable[[int], bool] = any_end
    ) -> None:
        self._command, self._count, self._patience = command, count, patience
        self._gives_up = gives_up
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
        """One worker after the other, until all are to stop or one gives up: then all are."""
        loop, pause, restarted = asyncio.get_running_loop(), FIRST_PAUSE, False
        while not self._stopping.is_set():
            started = loop.time()
            try:
                code = await self._run_one(index, lifeline)
            except OSError as error:  # no memory, no more processes: the others run on
                _log.error("worker cannot be started", worker=index, reason=error.strerror, wait=pause)
            else:
                if self._stopping.is_set():
                    return _exit_code(code)
                refused = restarted and code == MISUSED  # the others run on with the configuration that was good
                if code >= 0 and self._gives_up(code) and not refused:
                    _log.warn("worker ended, stopping the others", worker=index, code=code)
                    self._stopping.set()
                    return code
                if loop.time() - started > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                cause = {"signal": -code} if code < 0 else {"code": code}
                _log.error("worker died, starting another", worker=index, wait=pause, **cause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause, restarted = min(2 * pause, LONGEST_PAUSE), True
        return 0

    async def _run_one(self, index: int, lifeline: int) -> int:
        """Start a worker and wait for its end, which is ours to bring about once all are to stop. Raises `OSError`."""
        environment = os.environ | {VARIABLE: f"{index}/{self._count}/{lifeline}"}
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))  # a worker inherits it, until it can hear it
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, env=environment, pass_fds=(lifeline,), start_new_session=True
            )  # in a session of its own, a terminal's Ctrl-C does not reach it
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
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
