"""One of the connector's connections: dial, register, live, lose, wait, and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from qanat.connector.backoff import Backoff
from qanat.connector.spread import EdgeAddress
from qanat.connector.state import Shared
from qanat.connector.upstream import explain
from qanat.errors import QanatError
from qanat.logger import get_logger
from qanat.tunnel.connection import ConnectorConnection, Registered, RegistrationRefused, RegistrationRequest

DIAL_TIMEOUT = 15.0
REGISTER_TIMEOUT = 10.0
"""Seconds for the edge to open its control stream and answer: its own limit for the answer is 5."""
UNREGISTER_TIMEOUT = 5.0
IDLE_POLL = 0.05
CLOSE_TIMEOUT = 2.0
log = get_logger("qanat.connector")


class Slot:
    """Keeps the connection with one index alive until the connector stops."""

    def __init__(self, index: int, shared: Shared, on_registered: Callable[[int], None]) -> None:
        self.index, self._shared, self._on_registered = index, shared, on_registered
        self._backoff = Backoff(shared.config.retries)
        self._nudge, self._move = asyncio.Event(), asyncio.Event()
        self.waiting = False
        """In a pause before the next attempt."""

    def move(self) -> None:
        """Leave the present edge for another one, if no stream is open."""
        self._move.set()

    def nudge(self) -> None:
        """Cut a pause short: there is reason to believe that things have changed."""
        self._nudge.set()

    async def run(self) -> None:
        """Return once the connector is stopping and the connection has ended."""
        while not self._shared.stopping.is_set():
            pause = await self._attempt()
            if not self._shared.stopping.is_set():
                log.info("Retrying connection", connIndex=self.index, **{"in": f"{pause:.1f}s"})
                await self._wait(pause)

    async def _wait(self, pause: float) -> None:
        self._nudge.clear()
        self.waiting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._nudge.wait()
        self.waiting = False

    async def _attempt(self) -> float:
        """One round, from dial to loss; returns how long to wait before the next."""
        loop, shared = asyncio.get_running_loop(), self._shared
        shared.ladder.rest(len(shared.live), loop.time())
        rung = shared.ladder.rung
        address: EdgeAddress | None = None
        connection: ConnectorConnection | None = None
        try:
            request = shared.request(self.index, self._backoff.attempts, rung)
        except QanatError as error:
            log.error("The tunnel token cannot be used", connIndex=self.index, error=str(error))
            return self._backoff.after_refusal(random.random())  # noqa: S311 - jitter
        try:
            address = await self._choose(rung)
            connection = await self._dial(rung, address)
            registered = await self._register(connection, request)
        except RegistrationRefused as refusal:
            return self._refused(rung, address, refusal)
        except (QanatError, OSError, TimeoutError) as error:
            return self._failed(rung, address, error)
        else:
            return await self._live(rung, address, connection, registered)
        finally:
            shared.dialling.pop(self.index, None)
            if connection is not None:
                connection.close()
                await _bounded(connection.wait_closed(), CLOSE_TIMEOUT)

    async def _choose(self, rung: str) -> EdgeAddress:
        shared = self._shared
        addresses = await shared.discovery.addresses(rung)
        address = shared.spread.choose(addresses, shared.in_use(), asyncio.get_running_loop().time())
        shared.dialling[self.index] = address
        return address

    async def _dial(self, rung: str, address: EdgeAddress) -> ConnectorConnection:
        async with asyncio.timeout(DIAL_TIMEOUT):
            return await self._shared.dial(rung, address, self._shared.handler)

    async def _register(self, connection: ConnectorConnection, request: RegistrationRequest) -> Registered:
        async with asyncio.timeout(REGISTER_TIMEOUT):
            return await connection.register(request)

    def _refused(self, rung: str, address: EdgeAddress | None, refusal: RegistrationRefused) -> float:
        shared = self._shared
        shared.metrics.dials.labels(rung, "refused").inc()
        if address is not None:  # another edge may say yes: this one may be full, draining, or have its share of us
            shared.spread.failed(address, asyncio.get_running_loop().time())
        log.error(
            "The edge refused the connection",
            connIndex=self.index,
            protocol=rung,
            ip=address.host if address else "",
            error=refusal.cause,
        )
        return self._backoff.after_refusal(random.random(), refusal.retry_after)  # noqa: S311 - jitter

    def _failed(self, rung: str, address: EdgeAddress | None, error: Exception) -> float:
        shared, now = self._shared, asyncio.get_running_loop().time()
        shared.metrics.dials.labels(rung, "failed").inc()
        reason = explain(error)
        if address is not None:
            shared.spread.failed(address, now)
        log.error(
            "Unable to establish connection with the edge",
            connIndex=self.index,
            protocol=rung,
            ip=address.host if address else "",
            error=reason,
        )
        if shared.ladder.dial_failed(rung, reason, len(shared.live), now):
            log.warn("Switching to another protocol", was=rung, protocol=shared.ladder.rung, error=reason)
            if shared.ladder.is_untried:
                return self._backoff.before_untried(random.random())  # noqa: S311 - jitter
        return self._backoff.after_failure(random.random())  # noqa: S311 - jitter

    async def _live(
        self, rung: str, address: EdgeAddress, connection: ConnectorConnection, registered: Registered
    ) -> float:
        """Keep a registered connection until it is lost or the connector stops."""
        loop, shared = asyncio.get_running_loop(), self._shared
        since = loop.time()
        self._went_up(rung, address, connection, registered)
        closed = loop.create_task(connection.wait_closed())
        stopping = loop.create_task(shared.stopping.wait())
        self._move.clear()
        moving = loop.create_task(self._move.wait())
        try:
            await asyncio.wait((closed, stopping, moving), return_when=asyncio.FIRST_COMPLETED)
            if not closed.done():
                await self._retire(connection, closed)
                return self._backoff.before_untried(random.random())  # noqa: S311 - jitter
            self._lost(rung, closed.result())
            return self._backoff.after_loss(loop.time() - since, random.random())  # noqa: S311 - jitter
        finally:
            shared.went_down(self.index)
            shared.metrics.connections.labels(rung).dec()
            closed.cancel()
            stopping.cancel()
            moving.cancel()

    def _went_up(
        self, rung: str, address: EdgeAddress, connection: ConnectorConnection, registered: Registered
    ) -> None:
        shared, others = self._shared, self._shared.ladder.explain()
        if shared.ladder.dial_succeeded(rung) and len(shared.ladder.rungs) > 1:
            log.info("Chose a protocol", protocol=rung, others=others or "not tried")
        shared.went_up(self.index, address, connection)
        shared.metrics.connections.labels(rung).inc()
        shared.metrics.dials.labels(rung, "registered").inc()
        log.info(
            "Registered tunnel connection",
            connIndex=self.index,
            connection=registered.connection_id,
            event=0,
            ip=address.host,
            location=registered.location,
            protocol=rung,
        )
        self._on_registered(self.index)

    def _lost(self, rung: str, reason: Exception | None) -> None:
        self._shared.metrics.lost.inc()
        text = explain(reason) if reason is not None else "closed by the edge"
        log.warn("Lost connection with the edge", connIndex=self.index, protocol=rung, error=text)

    async def _retire(self, connection: ConnectorConnection, closed: asyncio.Task[Exception | None]) -> None:
        """Unregister, then let running streams finish: until the edge closes, or none is left, or grace is over."""
        grace = self._shared.config.grace_period.total_seconds()
        with suppress(TimeoutError, QanatError, OSError):
            async with asyncio.timeout(grace):
                async with asyncio.timeout(UNREGISTER_TIMEOUT):
                    await connection.unregister()
                log.info("Unregistered tunnel connection", connIndex=self.index)
                while connection.open_streams and not closed.done():
                    await asyncio.wait((closed,), timeout=IDLE_POLL)
        if connection.open_streams and not closed.done():
            log.warn("Streams were cut off at the end of the grace period", connIndex=self.index)


async def _bounded(awaitable: Awaitable[object], seconds: float) -> None:
    """Wait for a close that may never be confirmed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await awaitable
