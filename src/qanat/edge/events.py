"""Events for operators: logged at once, and handed to the control plane in batches when it listens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

from qanat.api import event_backlog
from qanat.api.event_backlog import EventBacklog, Field
from qanat.clock import Clock
from qanat.edge.directory import TunnelDirectory
from qanat.edge.metrics import Metrics
from qanat.errors import QanatError
from qanat.ids import TunnelID
from qanat.logger import get_logger

FLUSH_EVERY = 0.2
"""Seconds: gathers a batch."""
MAX_BACKOFF = 3.0
ALIVE_EVERY = 2.0
"""Seconds after which the control plane hears from this node, news or not: after six without a word it is silent."""

_log = get_logger("qanat.edge")

_PHRASES = {
    "connector_registered": "connector registered",
    "connector_lost": "connector lost",
    "connector_refused": "connector refused",
    "client_refused": "client refused",
    "tunnel_first_use": "tunnel in use",
}


class EventQueue:
    """What waits, and who hands it over."""

    def __init__(self, node: str, clock: Clock, metrics: Metrics) -> None:
        self._backlog = EventBacklog(node, clock, metrics.events_dropped.inc)
        self._waiting = asyncio.Event()
        self._hurry, self._stopping = asyncio.Event(), False
        self.instance = uuid4().hex
        """This start of the node: what an earlier one told is not ours to vouch for."""

    @property
    def crowded(self) -> bool:
        """Whether what can wait had better not be queued now."""
        return len(self._backlog) >= event_backlog.MAX_QUEUE // 2

    def emit(self, kind: str, tunnel: TunnelID | None = None, **fields: Field) -> None:
        """Log an event and queue it for the control plane."""
        if (phrase := _PHRASES.get(kind)) is not None:
            log = _log.warn if kind.endswith("refused") else _log.info
            log(phrase, tunnel=tunnel, **fields)
        self._backlog.add(self._backlog.make(kind, tunnel, **fields))
        self._waiting.set()

    def stop(self) -> None:
        """Let `run` end once it has tried to hand over what is queued now."""
        self._stopping = True
        self._hurry.set()
        self._waiting.set()

    async def run(self, directory: TunnelDirectory) -> None:
        """Hand over what is queued and say that we live, until `stop`; what cannot be handed over now waits."""
        backoff = FLUSH_EVERY
        while not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_EVERY):
                    await self._waiting.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff):  # gathers a batch, or waits out an outage
                    await self._hurry.wait()
            try:
                await self.flush(directory)
                backoff = FLUSH_EVERY
            except (QanatError, OSError):
                backoff = min(MAX_BACKOFF, backoff * 2)

    async def flush(self, directory: TunnelDirectory) -> None:
        """Hand over everything queued. Raises what the directory raises; the events are kept then."""
        await self._hand_over(directory)
        while self._backlog:
            await self._hand_over(directory)
        self._waiting.clear()

    async def _hand_over(self, directory: TunnelDirectory) -> None:
        await self._backlog.hand_over(directory, self._backlog.make("node_alive", instance=self.instance))
