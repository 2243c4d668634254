"""What edges and gateways tell: connectors come and go, traffic, calls. Kept for the console, not for ever."""

from __future__ import annotations

from qanat.api.internal import EventBatch
from qanat.control.operations.context import Context
from qanat.control.store.tables import EventRow


class Events:
    """The event store."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def record(self, batch: EventBatch) -> None:
        """Keep a batch."""
        async with self._context.database.write() as session:
            session.add_all(
                EventRow(
                    time=event.time, kind=event.kind, node=event.node, tunnel_id=event.tunnel_id, fields=event.fields
                )
                for event in batch.events
            )
