"""One child process and the JSON-RPC lines to and from it.

A child is ended by closing its input, then by SIGTERM, then by SIGKILL to its whole process group, and is always
reaped. Its standard error goes to the log at debug, cut short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from qanat.errors import QanatError
from qanat.logger import get_logger

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line a child may write."""
MAX_UNREAD = 8 * 1024 * 1024
"""Bytes of messages that may wait for a child that does not read; beyond it they are refused."""
STOP_STEP = 2.0
"""Seconds a child has at each step of being ended."""
_LOGGED_LINE = 500

_log = get_logger("qanat.proxy.stdio")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: an argument list, never a shell string, in an environment of exactly these variables."""

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None


@dataclass(eq=False)
class ProgramFailed(QanatError):
    """The program could not be started, or has ended."""

    code: ClassVar[str] = "upstream_process"
    status: ClassVar[int] = 502
    reason: str

    def __str__(self) -> str:
        return f"stdio server: {self.reason}"


@dataclass(eq=False)
class ProgramBusy(ProgramFailed):
    """The program does not read its input, and too much is waiting for it already."""

    code: ClassVar[str] = "upstream_process_busy"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    reason: str = "does not read its input"


class ChildProcess:
    """A running program. `on_message` hears each JSON object it writes, `on_exit` its end, once."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_exit: Callable[[], None]) -> None:
        self._on_message, self._on_exit = on_message, on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._writing, self._unread = asyncio.Lock(), 0

    async def start(self, program: Program) -> None:
        """Start it. Raises `ProgramFailed`."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *program.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(program.env),
                cwd=program.cwd,
                start_new_session=True,
                limit=MAX_LINE,
            )
        except OSError as error:
            raise ProgramFailed((error.strerror or "could not be started").lower()) from error
        self._task = asyncio.create_task(self._run(self._process), name="stdio-child")

    async def send(self, message: dict[str, Any]) -> None:
        """Write one line, waiting while the child does not read. Raises `ProgramFailed`, `ProgramBusy`.

        A line is handed to the pipe only once it has room, so that callers who gave up leave nothing behind in it.
        """
        line = json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
        if self._unread and self._unread + len(line) > MAX_UNREAD:
            raise ProgramBusy
        self._unread += len(line)
        try:
            async with self._writing:
                await self._write(line)
        except (OSError, RuntimeError) as error:
            raise ProgramFailed("closed its input") from error
        finally:
            self._unread -= len(line)

    async def _write(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None or self._stopping.is_set():
            raise ProgramFailed("not running")
        await self._process.stdin.drain()
        self._process.stdin.write(line)

    async def stop(self) -> None:
        """End the child and wait until it has been reaped."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(self._log_errors(process.stderr), name="stdio-stderr")
        reading = asyncio.create_task(self._read(process.stdout), name="stdio-stdout")
        stopping = asyncio.create_task(self._stopping.wait(), name="stdio-stop")
        try:
            await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            await self._end(process)
        finally:
            for task in (errors, reading, stopping):
                task.cancel()
            await asyncio.gather(errors, reading, stopping, return_exceptions=True)
            _log.debug("stdio server ended", pid=process.pid, exit_status=process.returncode)
            self._on_exit()

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stdout.readline()
            except ValueError:
                _log.warn("stdio server wrote too long a line")
                return
            if not line:
                return
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    self._on_message(message)

    async def _log_errors(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(_LOGGED_LINE):
            _log.debug("stdio server stderr", text=chunk.decode("utf-8", "replace").rstrip())

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()
        for step in (None, signal.SIGTERM, signal.SIGKILL):
            if step is not None:
                _signal_group(process.pid, step)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_STEP):
                    await process.wait()
                    break
        _signal_group(process.pid, signal.SIGKILL)  # whatever the child itself started
        await process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
