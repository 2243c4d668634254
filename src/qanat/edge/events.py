"""Events for operators: logged at once, and handed to the control plane in batches when it listens."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from itertools import islice
from uuid import uuid4

from qanat.api.internal import Event, EventBatch
from qanat.clock import Clock
from qanat.edge.directory import TunnelDirectory
from qanat.edge.metrics import Metrics
from qanat.errors import QanatError
from qanat.ids import TunnelID
from qanat.log import get_logger

MAX_QUEUE = 10_000
MAX_BATCH = 1_000
FLUSH_EVERY = 0.2
"""Seconds: gathers a batch."""
MAX_BACKOFF = 3.0
ALIVE_EVERY = 2.0
"""Seconds after which the control plane hears from this node, news or not: after six without a word it is silent."""

_log = get_logger("qanat.edge")

Kind = str
Field = str | int | float | bool | None
_PHRASES = {
    "connector_registered": "connector registered",
    "connector_lost": "connector lost",
    "connector_refused": "connector refused",
    "client_refused": "client refused",
    "tunnel_first_use": "tunnel in use",
}


class EventQueue:
    """At most `MAX_QUEUE` events wait; beyond that the oldest are dropped and counted."""

    def __init__(self, node: str, clock: Clock, metrics: Metrics) -> None:
        self._node, self._clock, self._metrics = node, clock, metrics
        self._queue: deque[Event] = deque()
        self._waiting = asyncio.Event()
        self._hurry, self._stopping = asyncio.Event(), False
        self.instance = uuid4().hex
        """This start of the node: what an earlier one told is not ours to vouch for."""

    @property
    def crowded(self) -> bool:
        """Whether what can wait had better not be queued now."""
        return len(self._queue) >= MAX_QUEUE // 2

    def emit(self, kind: str, tunnel: TunnelID | None = None, **fields: Field) -> None:
        """Log an event and queue it for the control plane."""
        if (phrase := _PHRASES.get(kind)) is not None:
            log = _log.warn if kind.endswith("refused") else _log.info
            log(phrase, tunnel=tunnel, **fields)
        event = self._make(kind, tunnel, **fields)
        if len(self._queue) >= MAX_QUEUE:
            self._queue.popleft()
            self._metrics.events_dropped.inc()
        self._queue.append(event)
        self._waiting.set()

    def _make(self, kind: str, tunnel: TunnelID | None = None, **fields: Field) -> Event:
        return Event.model_validate(
            {"time": self._clock.now(), "kind": kind, "node": self._node, "tunnel_id": tunnel, "fields": fields}
        )

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
        while self._queue:
            await self._hand_over(directory)
        self._waiting.clear()

    async def _hand_over(self, directory: TunnelDirectory) -> None:
        batch = tuple(islice(self._queue, MAX_BATCH - 1))
        alive = self._make("node_alive", instance=self.instance)
        await directory.send_events(EventBatch(events=(alive, *batch)))
        handed = set(map(id, batch))
        while self._queue and id(self._queue[0]) in handed:  # some may have been dropped meanwhile
            self._queue.popleft()
