"""A whole stack beside the test, in a thread with a loop of its own: tests may then run programs that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from qanat.stack import Stack
from tests.support.planted import remember

T = TypeVar("T")
TIMEOUT = 60.0


class RunningStack:
    """The stack, and a way to run something in its loop."""

    def __init__(self, directory: Path) -> None:
        self.stack = Stack(directory)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, run in the stack's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    @property
    def environment(self) -> dict[str, str]:
        """What the examples read."""
        return self.stack.environment

    def close(self) -> None:
        """Stop everything and join the thread."""
        try:
            self.run(self.stack.close())
            self.run(_others_done())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _others_done() -> None:
    """Let what libraries still do in the background come to its end, such as ending a database connection."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, left = await asyncio.wait(others, timeout=2)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def running_stack(directory: Path) -> Iterator[RunningStack]:
    """A stack that is up."""
    running = RunningStack(directory)
    try:
        running.run(running.stack.start())
        remember(running.stack.api_key.get_secret_value())
        remember(running.stack.tunnels_key.get_secret_value())
        remember((running.stack.customer / "tunnel-token").read_text().strip())
        yield running
    finally:
        running.close()
