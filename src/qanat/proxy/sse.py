"""Keeps a quiet event stream alive for networks that drop silent ones, where a route asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

COMMENT = b": keep-alive\n\n"


class KeepAlive:
    """Inserts a comment when nothing was sent for `every` seconds, and only between two events."""

    def __init__(self, every: float, send: Callable[[bytes], None]) -> None:
        self._every, self._send = every, send
        self._loop = asyncio.get_running_loop()
        self._tail = b"\n\n"
        self._last = self._loop.time()
        self._timer = self._loop.call_later(every, self._tick)

    def passed(self, data: bytes) -> None:
        """A piece of the stream went by."""
        self._tail = (self._tail + data)[-4:]
        self._last = self._loop.time()

    def stop(self) -> None:
        """The stream is over."""
        self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        quiet = now - self._last
        if quiet >= self._every:
            if self._tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")):
                self._send(COMMENT)
            self._last, quiet = now, 0.0
        self._timer = self._loop.call_later(self._every - quiet, self._tick)
