"""Events that wait for the control plane: bounded, oldest dropped first, handed over in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol
from uuid import uuid4

from qanat.api.internal import Event, EventBatch
from qanat.clock import Clock
from qanat.errors import QanatError
from qanat.ids import TunnelID
from qanat.logger import get_logger

MAX_QUEUE = 10_000
MAX_BATCH = 1_000
"""As many as the control plane takes at once."""
Field = str | int | float | bool | None


_log = get_logger("qanat.api")


@dataclass(eq=False)
class EventsRefused(QanatError):
    """The control plane will never take this batch: it is of another version, or the batch is broken."""

    code: ClassVar[str] = "events_refused"
    status: ClassVar[int] = 502

    def __str__(self) -> str:
        return "control plane refused events"


class EventSink(Protocol):
    """Who stores events. Raises `EventsRefused` for what it will never take, or another error when it cannot now."""

    async def send_events(self, batch: EventBatch) -> None: ...


class EventBacklog:
    """The events of one node. `on_dropped` is called for each that had to give way."""

    def __init__(self, node: str, clock: Clock, on_dropped: Callable[[], None]) -> None:
        self._node, self._clock, self._on_dropped = node, clock, on_dropped
        self._events: deque[Event] = deque()
        self._underway = EventBatch(events=())
        """Sent, and not known to have arrived."""

    def __len__(self) -> int:
        return len(self._events) + len(self._underway.events)

    def make(self, kind: str, tunnel: TunnelID | None = None, **fields: Field) -> Event:
        """An event of now."""
        return Event.model_validate(
            {"time": self._clock.now(), "kind": kind, "node": self._node, "tunnel_id": tunnel, "fields": fields}
        )

    def add(self, event: Event) -> None:
        """Let an event wait."""
        if len(self._events) >= MAX_QUEUE:
            self._events.popleft()
            self._on_dropped()
        self._events.append(event)

    async def hand_over(self, sink: EventSink, *first: Event) -> None:
        """One batch, `first` at its head. Raises what the sink raises; the events are kept then.

        Next time the same batch goes under the same id, since nobody knows whether it arrived: only its answer failed.
        A batch that is refused is dropped, or nothing would ever be told again.
        """
        if not self._events and not self._underway.events:
            await sink.send_events(EventBatch(events=first))
            return
        if not self._underway.events:
            size = min(len(self._events), MAX_BATCH - len(first))
            events = tuple(self._events.popleft() for _ in range(size))
            self._underway = EventBatch(id=uuid4().hex, events=(*first, *events))
        batch = self._underway
        try:
            await sink.send_events(batch)
        except EventsRefused as error:
            _log.error("events dropped", reason=str(error), events=len(batch.events))
            for _ in batch.events:
                self._on_dropped()
        if self._underway is batch:
            self._underway = EventBatch(events=())
