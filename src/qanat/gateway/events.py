"""What operators see of calls: handed to the control plane in batches, never an argument or a result.

Nothing waits for it. While the control plane is away the newest events are kept; older ones are dropped and counted.
"""

from __future__ import annotations

import asyncio

from qanat.api.event_backlog import EventBacklog, EventSink, Field
from qanat.clock import Clock
from qanat.errors import QanatError
from qanat.gateway.metrics import Metrics
from qanat.ids import TunnelID
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
FLUSH_EVERY = 0.2
"""Seconds: gathers a batch."""
MAX_BACKOFF = 10.0


class EventQueue:
    """Bounded; `run` empties it."""

    def __init__(self, node: str, clock: Clock, metrics: Metrics) -> None:
        self._backlog = EventBacklog(node, clock, metrics.events_dropped.inc)
        self._waiting = asyncio.Event()

    def emit(self, kind: str, tunnel: TunnelID, **fields: Field) -> None:
        """Queue an event."""
        self._backlog.add(self._backlog.make(kind, tunnel, **fields))
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
            except Exception as error:
                if not isinstance(error, (QanatError, OSError)):  # a bug must not end the telling
                    log.exception("events could not be handed over")
                backoff = min(MAX_BACKOFF, backoff * 2)

    async def flush(self, sink: EventSink) -> None:
        """Hand over everything queued. Raises what the sink raises; the events are kept then."""
        while self._backlog:
            await self._backlog.hand_over(sink)
        self._waiting.clear()
