"""Starts the slots and stops them.

The first connection goes ahead alone; once it is registered the others follow, one each second. After a common outage
the first one back wakes the rest, in the same rhythm.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from qanat.connector.slot import DIAL_TIMEOUT, Slot
from qanat.connector.spread import EdgeAddress
from qanat.connector.state import Shared
from qanat.errors import QanatError
from qanat.logger import get_logger

STAGGER = 1.0
"""Seconds between the starts of two connections."""
log = get_logger("qanat.connector")


class Supervisor:
    """Runs a connector's slots."""

    spread_every = 30.0
    """Seconds between looks at whether all connections are on one edge though there are two."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._slots = [Slot(index, shared, self._on_registered) for index in range(shared.config.ha_connections)]
        self._wakes: set[asyncio.TimerHandle] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Return once the connector has been stopped and every connection has ended."""
        background = [asyncio.create_task(self._watch_token()), asyncio.create_task(self._keep_spread())]
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    self._tasks.append(group.create_task(slot.run()))
                    if await self._stopped_before_next():
                        break
                await self._shared.stopping.wait()
                self._cancel_idle()
        finally:
            for task in background:
                task.cancel()
            for wake in self._wakes:
                wake.cancel()

    def stop(self) -> None:
        """Begin a graceful stop: unregister, finish what runs, end."""
        self._shared.stopping.set()

    async def _stopped_before_next(self) -> bool:
        """Wait for the moment to start another slot; True when there is none any more."""
        loop, shared = asyncio.get_running_loop(), self._shared
        stopping = loop.create_task(shared.stopping.wait())
        registered = loop.create_task(shared.registered.wait())
        try:
            await asyncio.wait((stopping, registered), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((stopping,), timeout=STAGGER)
        finally:
            stopping.cancel()
            registered.cancel()
        return shared.stopping.is_set()

    def _cancel_idle(self) -> None:
        """Slots without a registered connection have nothing to finish."""
        for slot, task in zip(self._slots, self._tasks, strict=False):
            if slot.index not in self._shared.live:
                task.cancel()

    def _on_registered(self, index: int) -> None:
        loop = asyncio.get_running_loop()
        self._wakes = {wake for wake in self._wakes if not wake.cancelled() and wake.when() > loop.time()}
        waiting = [slot for slot in self._slots if slot.waiting]
        for number, slot in enumerate(waiting, 1):
            self._wakes.add(loop.call_later(number * STAGGER, slot.nudge))

    async def _keep_spread(self) -> None:
        """Once in a while: if one edge holds everything, and another one answers, move a connection there."""
        shared, loop = self._shared, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.spread_every)
            rung = shared.ladder.rung
            with suppress(QanatError):
                addresses = await shared.discovery.addresses(rung)
                pair = shared.spread.better(addresses, shared.in_use(), loop.time())
                if pair is not None and await self._answers(rung, pair[1]):
                    self._move_one()

    async def _answers(self, rung: str, address: EdgeAddress) -> bool:
        """Whether an edge can be dialled; if not, it is left alone for a while."""
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                connection = await self._shared.dial(rung, address, self._shared.handler)
        except (QanatError, OSError, TimeoutError):
            self._shared.spread.failed(address, asyncio.get_running_loop().time())
            return False
        connection.close()
        return True

    def _move_one(self) -> None:
        for slot in reversed(self._slots):
            live = self._shared.live.get(slot.index)
            if live is not None and not live[1].open_streams:
                log.info("Moving a connection to another edge", connIndex=slot.index)
                slot.move()
                return

    async def _watch_token(self) -> None:
        while True:
            await self._shared.tokens.wait_changed()
            log.info("The token file changed; new registrations use it")
            for slot in self._slots:
                slot.nudge()
