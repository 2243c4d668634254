"""What operators see of calls: handed to the control plane in batches, never an argument or a result.

Nothing waits for it. While the control plane is away the newest `MAX_QUEUE` events are kept; older ones are dropped
and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from qanat.api.internal import Event, EventBatch
from qanat.clock import Clock
from qanat.errors import QanatError
from qanat.gateway.metrics import Metrics
from qanat.ids import TunnelID
from qanat.log import get_logger

log = get_logger("qanat.gateway")
MAX_QUEUE = 10_000
MAX_BATCH = 1_000
FLUSH_EVERY = 0.2
"""Seconds: gathers a batch."""
MAX_BACKOFF = 10.0
Field = str | int | float | bool | None


class EventSink(Protocol):
    """Who stores events. Raises `QanatError` when it cannot now."""

    async def send_events(self, batch: EventBatch) -> None: ...


class EventQueue:
    """Bounded; `run` empties it."""

    def __init__(self, node: str, clock: Clock, metrics: Metrics) -> None:
        self._node, self._clock, self._metrics = node, clock, metrics
        self._queue: deque[Event] = deque()
        self._waiting = asyncio.Event()

    def emit(self, kind: str, tunnel: TunnelID, **fields: Field) -> None:
        """Queue an event."""
        event = Event.model_validate(
            {"time": self._clock.now(), "kind": kind, "node": self._node, "tunnel_id": tunnel, "fields": fields}
        )
        if len(self._queue) >= MAX_QUEUE:
            self._queue.popleft()
            self._metrics.events_dropped.inc()
        self._queue.append(event)
        self._waiting.set()

    async def run(self, sink: EventSink) -> None:
        """Hand over what is queued, for ever; what cannot be handed over now waits."""
        backoff = FLUSH_EVERY
        while True:
            await self._waiting.wait()
            await asyncio.sleep(backoff)  # gathers a batch, or waits out an outage
            try:
                await self.flush(sink)
                backoff = FLUSH_EVERY
            except (QanatError, OSError):
                backoff = min(MAX_BACKOFF, backoff * 2)

    async def flush(self, sink: EventSink) -> None:
        """Hand over everything queued. Raises what the sink raises; the events are kept then, newest first to stay."""
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            try:
                await sink.send_events(EventBatch(events=tuple(batch)))
            except BaseException:
                room = MAX_QUEUE - len(self._queue)
                kept = batch[max(0, len(batch) - room) :] if room > 0 else []
                self._metrics.events_dropped.inc(len(batch) - len(kept))
                self._queue.extendleft(reversed(kept))
                raise
        self._waiting.clear()
