"""One run of `qanat dev`: start, ask, show, stay until told to stop, and leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from qanat.dev import keyboard, report
from qanat.dev.request import HopFailed, ask, example_request, find_failing_hop
from qanat.errors import QanatError
from qanat.gateway.config import ModelSection
from qanat.log import setup_logging
from qanat.stack import PartFailed, Stack


@dataclass
class Session:
    """`run` returns the exit status."""

    model: str
    models: dict[str, ModelSection]
    listen: str = "127.0.0.1:0"
    once: bool = False
    verbose: bool = False
    started: float = 0.0
    """When the command was entered, on the monotonic clock."""

    async def run(self) -> int:
        """0 when everything held, or after a stop by SIGINT or SIGTERM once everything was up."""
        setup_logging("info" if self.verbose else "warn", "text")
        logging.getLogger().handlers[0].setLevel(logging.INFO if self.verbose else logging.WARNING)
        work = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, work.cancel)
        try:
            return await work
        except asyncio.CancelledError:
            print("\nstopped", flush=True)
            return 0
        except QanatError as error:
            return _fail(error)

    async def _work(self) -> int:
        say("qanat dev: the whole tunnel in one process, on loopback")
        with tempfile.TemporaryDirectory(prefix="qanat-dev-") as directory:
            async with Stack(Path(directory), models=self.models, listen=self.listen, say=self._progress) as stack:
                environment = write_environment(stack)
                say(f"up in {time.monotonic() - self.started:.1f} s", *report.listeners(stack), "")
                held = await self._show(stack)
                if self.once:
                    return 0 if held else 1
                say("", "for the examples and the tutorial, in another terminal", f"  . {environment}", "")
                say(keyboard.HELP, "running; Ctrl-C stops everything and leaves nothing behind")
                async for line in keyboard.obey(stack, self.model):
                    say(line)
                await asyncio.Event().wait()
        return 0

    async def _show(self, stack: Stack) -> bool:
        body = example_request(stack, self.model)
        say(*report.show_request(stack, body), "")
        with report.Witness(stack) as witness:
            try:
                answer = await ask(stack, body)
            except HopFailed as error:
                _fail(error)
                return False
        say(*report.show_answer(answer), "", *report.show_hops(answer, witness), "")
        findings = report.judge(answer, witness, demo_model=self.model == "qanat-demo")
        say(*report.show_findings(findings))
        if any(not finding.held for finding in findings) and (failure := await find_failing_hop(stack)):
            _fail(failure)
        say("", *report.show_next(stack, self.model))
        return all(finding.held for finding in findings)

    def _progress(self, line: str) -> None:
        say(f"{time.monotonic() - self.started:5.1f} s  {line}")


def write_environment(stack: Stack) -> Path:
    """A file that a shell can read; for its owner's eyes only, like the directory it is in."""
    path = stack.directory / "env"
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in stack.environment.items()]
    path.touch(mode=0o600)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def say(*lines: str) -> None:
    """Print lines at once, also into a pipe."""
    print(*lines, sep="\n", flush=True)


def _fail(error: QanatError) -> int:
    kind = "did not start" if isinstance(error, PartFailed) else "failed"
    print(f"qanat dev: {kind} at {error}", file=sys.stderr, flush=True)
    return 1
