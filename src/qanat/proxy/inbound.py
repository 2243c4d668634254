"""What both HTTP versions of the caller's side share: an idle limit, and being told to finish."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable

from mypy_extensions import mypyc_attr

from qanat.net.alarm import Alarm, call_in
from qanat.net.transport import Transport

FORGET_AFTER = 2.0
"""Seconds of rest after which a connection lets go of what it remembers of its last request: it may be secret."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Inbound:
    """One inner connection. It is closed after `idle_timeout` seconds without a request."""

    transport: Transport

    def __init__(self, idle_timeout: float) -> None:
        self.lost = False
        self.on_lost: Callable[[], None] | None = None
        self._idle_timeout = idle_timeout
        self._idle_since = 0.0
        self._idle_timer: Alarm | None = None

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self.on_lost is not None:
            self.on_lost()

    @abstractmethod
    def drain(self) -> None:
        """Take no further request, and close once those going on are answered."""

    def _busy(self) -> None:
        """A request is going on. The timer stays: it looks when it fires, which is cheaper than one for each rest."""
        self._idle_since = math.inf

    def _rest(self) -> None:
        """None is going on."""
        self._idle_since = self._loop.time()
        if self._idle_timer is None:
            self._look_in(self._idle_timeout)

    def _look_in(self, seconds: float) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = call_in(seconds, self._look)

    def _look(self) -> None:
        idle = self._loop.time() - self._idle_since  # minus infinity while busy
        if idle >= self._idle_timeout:
            self.transport.close()
            return
        if 0 <= idle < FORGET_AFTER:
            self._look_soon()
            return
        self.forget()  # long at rest, or busy with what may be a stream of hours
        self._look_in(self._idle_timeout - max(idle, 0))

    def _look_soon(self) -> None:
        """Something of a request is being remembered."""
        self._look_in(min(FORGET_AFTER, self._idle_timeout))

    def forget(self) -> None:
        """Let go of what is remembered of the last request."""
