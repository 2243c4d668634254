"""What all requests of a proxy share: the routes in force, the limits, the tasks, the counters."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any, Final

from qanat.proxy.errors import Overloaded
from qanat.proxy.exchange import Exchange
from qanat.proxy.metrics import ProxyMetrics
from qanat.proxy.pool import Pool
from qanat.proxy.route import Route
from qanat.proxy.routes import RouteTable
from qanat.proxy.tracing.spans import Tracer

_IDS: Final = 64


class Forwarder:
    """Knows every exchange that is going on."""

    def __init__(
        self, table: RouteTable[Route], metrics: ProxyMetrics, max_requests: int, tracer: Tracer | None = None
    ) -> None:
        self.table, self.metrics, self.max_requests, self.tracer = table, metrics, max_requests, tracer
        self.draining = False
        self._exchanges: set[Exchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event | None = None
        """Made when somebody waits for it."""
        self._ids: list[str] = []

    def new_id(self) -> str:
        """An id for a request that brought none."""
        if not self._ids:  # many at a time: random bytes are a system call
            digits = secrets.token_hex(16 * _IDS)
            self._ids = [digits[start : start + 32] for start in range(0, len(digits), 32)]
        return self._ids.pop()

    @property
    def in_flight(self) -> int:
        """Exchanges going on now."""
        return len(self._exchanges)

    def enter(self, exchange: Exchange) -> bool:
        """Count an exchange in; False when there are too many."""
        if len(self._exchanges) >= self.max_requests:
            return False
        self._exchanges.add(exchange)
        return True

    def occupy(self, route: Route) -> None:
        """Count an exchange on its route. Raises `Overloaded`."""
        pool = route.pool
        if route.max_in_flight and pool.in_flight >= route.max_in_flight:
            raise Overloaded
        pool.in_flight += 1
        self.metrics.in_flight.step((route.name,))

    def leave(self, exchange: Exchange, route: Route | None) -> None:
        """The exchange is over."""
        self._exchanges.discard(exchange)
        if route is not None:
            pool = route.pool
            pool.in_flight -= 1
            self.metrics.in_flight.step((route.name,), -1)
            if pool.closed and not pool.in_flight:
                pool.close()
        if self._idle is not None and not self._exchanges:
            self._idle.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a part of an exchange; `close` ends it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def retire(self, pool: Pool, patience: float) -> None:
        """No route leads there any more: its streams end now, its other requests get `patience` seconds."""
        self.end_streams(pool)
        if pool.in_flight:
            asyncio.get_running_loop().call_later(patience, self.abort, pool)

    def end_streams(self, pool: Pool | None = None) -> None:
        """End standalone event streams cleanly, of one pool or of all."""
        for exchange in self._exchanges_of(pool):
            if exchange.standalone_stream:
                exchange.end_stream()

    def abort(self, pool: Pool | None = None) -> None:
        """Abort what is left, of one pool or of all."""
        for exchange in self._exchanges_of(pool):
            exchange.abort()

    def _exchanges_of(self, pool: Pool | None) -> list[Exchange]:
        if pool is None:
            return list(self._exchanges)
        return [exchange for exchange in self._exchanges if exchange.route is not None and exchange.route.pool is pool]

    async def wait_idle(self) -> None:
        """Return once no exchange is going on."""
        if self._exchanges:
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            await self._idle.wait()

    async def close(self) -> None:
        """Abort everything and wait for the tasks."""
        self.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
