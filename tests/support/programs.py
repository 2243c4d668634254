"""`qanat …` as a process of its own, whose log is kept and can be waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

TIMEOUT = 40.0


class Program:
    """A command that logs to standard error."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.raw_log = b""
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._heard = asyncio.Condition()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def run(self, *arguments: str, prefix: Sequence[str] = ()) -> None:
        """Start it, and forget what it logged before."""
        self.log.clear()
        self._process = await asyncio.create_subprocess_exec(
            *(*prefix, sys.executable, "-m", "qanat", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.raw_log += line
            with contextlib.suppress(ValueError):
                self.log.append(json.loads(line))
            async with self._heard:
                self._heard.notify_all()
        async with self._heard:
            self._heard.notify_all()

    async def line(self, phrase: str) -> dict[str, Any]:
        """The first log line that says so, waited for."""
        return (await self.lines(phrase, 1))[0]

    async def lines(self, phrase: str, count: int) -> list[dict[str, Any]]:
        """The first log lines that say so, so many of them, waited for."""
        async with asyncio.timeout(TIMEOUT), self._heard:
            while len(found := self.log_lines(phrase)) < count:
                assert self._reader is not None
                assert not self._reader.done(), self.raw_log.decode()
                await self._heard.wait()
        return found[:count]

    def log_lines(self, phrase: str) -> list[dict[str, Any]]:
        """The log lines that said so."""
        return [line for line in self.log if line["msg"] == phrase]

    def log_line(self, phrase: str) -> dict[str, Any]:
        """The log line that said so."""
        return self.log_lines(phrase)[0]

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    async def ended(self) -> int:
        """Its exit status, once it and all that write to its log have ended."""
        assert self._process is not None
        assert self._reader is not None
        async with asyncio.timeout(TIMEOUT):
            status = await self._process.wait()
            await self._reader
        return status

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.kill()
            await self.ended()
