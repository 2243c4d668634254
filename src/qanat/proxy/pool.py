"""What a route's requests go to: its idle connections, how many there may be, and how many requests use them."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import Final

from mypy_extensions import mypyc_attr

from qanat.proxy.dial import Destination, Dialler
from qanat.proxy.errors import Overloaded
from qanat.proxy.upstream import Upstream, UpstreamConnection

TRUSTED_FOR: Final = 1.0
"""Seconds after an answer for which a connection is taken to be open still, without asking the system."""
_now: Final = time.monotonic


@mypyc_attr(allow_interpreted_subclasses=True)
class Pool(ABC):
    """Where a route's exchanges get something to talk to."""

    def __init__(self) -> None:
        self.open = 0
        """Connections, busy or idle."""
        self.in_flight = 0
        """Requests, from the choice of their route to their end."""
        self.closed = False
        """Whether `close` has been called: no further request will choose it."""
        self.ending: asyncio.Task[None] | None = None
        """What ends the rest, where that takes time."""

    @abstractmethod
    def take(self) -> Upstream | None:
        """Something that is ready now."""

    @abstractmethod
    async def connect(self) -> Upstream:
        """Something new. Raises `ProxyError`."""

    @abstractmethod
    def close(self) -> None:
        """Begin to end what no request needs. Called again once none is in flight."""

    async def wait_closed(self) -> None:
        """Return when nothing needs to be waited for any more."""
        if self.ending is not None:
            await self.ending


class UpstreamPool(Pool):
    """Hands out idle connections, youngest first, and dials new ones.

    A connection that has been idle for `idle_timeout` seconds is closed rather than used: servers close theirs after
    a few seconds, and a request on a connection that is just being closed is lost. One that has just answered is
    trusted, until the upstream closes such a one without having said so.
    """

    def __init__(self, dialler: Dialler, destination: Destination, limit: int, idle_timeout: float) -> None:
        super().__init__()
        self.destination = destination
        self._dialler, self._limit, self._idle_timeout = dialler, limit, idle_timeout
        self._idle: list[UpstreamConnection] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._trusted_for = TRUSTED_FOR

    def take(self) -> UpstreamConnection | None:
        """An idle connection that is still good."""
        now = _now()
        while self._idle:
            connection = self._idle.pop()
            idle_for, connection.idle_since = now - connection.idle_since, 0.0
            if idle_for < self._idle_timeout and connection.usable(doubtful=idle_for >= self._trusted_for):
                connection.reused = True
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises `ProxyError`."""
        if self.open >= self._limit:
            raise Overloaded("too many upstream connections")
        self.open += 1
        try:
            connection = await self._dialler.dial(self.destination, self._make)
        except BaseException:
            self.open -= 1
            raise
        connection.when_lost(partial(self._lose, connection))
        return connection

    def close(self) -> None:
        """Close what is idle now and whatever becomes idle from now on."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _make(self, address: str) -> UpstreamConnection:
        return UpstreamConnection(address, self._give_back)

    def _lose(self, connection: UpstreamConnection) -> None:
        self.open -= 1
        if _now() - connection.idle_since < TRUSTED_FOR:
            self._trusted_for = 0.0

    def _give_back(self, connection: UpstreamConnection) -> None:
        if self.closed or self._idle_timeout <= 0:
            connection.close()
            return
        connection.idle_since = _now()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._idle_timeout, self._sweep)

    def _sweep(self) -> None:
        horizon = _now() - self._idle_timeout
        while self._idle and self._idle[0].idle_since <= horizon:
            self._idle.pop(0).close()
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._idle_timeout, self._sweep) if self._idle else None
