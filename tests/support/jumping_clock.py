"""An event loop whose clock jumps: when nothing happens, the next timer is due at once.

Ten minutes of silence pass in a moment, with every timer of every part firing in its order. The work between two
timers takes no time at all on this clock, however slow the machine.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
SETTLE = 0.005
"""Seconds for which the kernel must be quiet before time goes on."""


class _Selector(selectors.DefaultSelector):
    loop: JumpingLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or not self.loop.jumping:
            return super().select(timeout)
        events: list[tuple[selectors.SelectorKey, int]] = super().select(min(timeout, SETTLE))
        if not events:
            self.loop.jump(timeout)
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """Ordinary until `jumping` is set."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self.jumping = False
        self.jumps = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self._ahead

    def jump(self, seconds: float) -> None:
        """Go on to where the next timer is due."""
        self._ahead += seconds
        self.jumps += 1


def run_jumping(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on such a loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)
