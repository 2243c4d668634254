"""What the control plane does by itself: poll issuers' keys, and forget what need not be kept."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sqlalchemy import delete

from qanat.control.errors import StoreUnavailable
from qanat.control.operations.changes import DataPlane
from qanat.control.operations.context import Context
from qanat.control.operations.first_times import USE
from qanat.control.operations.key_sets import KeySets
from qanat.control.store.tables import (
    AccessTokenRow,
    AuthenticationEventRow,
    ConnectorRow,
    EdgeNodeRow,
    EventBatchRow,
    EventRow,
    FirstTimeRow,
    OpenStreamsRow,
    TrafficRow,
    UsedAssertionRow,
)
from qanat.logger import get_logger

POLL_INTERVAL = 30.0
PRUNE_INTERVAL = 3600.0
TOKENS_KEPT = timedelta(days=30)
CONNECTORS_KEPT = timedelta(minutes=10)
"""A connector nobody has spoken of for so long is gone, and so is its edge."""
BATCHES_KEPT = timedelta(hours=1)
"""A node that heard no answer tells its batch again within seconds."""
log = get_logger("qanat.control")


class Housekeeping:
    """Runs until cancelled."""

    def __init__(self, context: Context, key_sets: KeySets, data_plane: DataPlane) -> None:
        self._context, self._key_sets, self._data_plane = context, key_sets, data_plane

    async def run(self) -> None:
        """Poll and prune, for ever. A store that does not answer is waited for."""
        next_prune = self._context.clock.monotonic()
        while True:
            try:
                await self.poll_issuers()
                if self._context.clock.monotonic() >= next_prune:
                    next_prune = self._context.clock.monotonic() + PRUNE_INTERVAL
                    await self.prune()
            except StoreUnavailable:
                log.warn("housekeeping postponed", reason="store unavailable")
            except Exception:
                log.exception("housekeeping failed")  # a bug there must not end the service
            await asyncio.sleep(POLL_INTERVAL)

    async def poll_issuers(self) -> None:
        """Refetch the key sets that are due."""
        await self._key_sets.poll()

    async def prune(self) -> None:
        """Forget what is older than its retention."""
        now, config = self._context.now(), self._context.config
        await self._data_plane.prune()
        async with self._context.database.write() as session:
            for statement in (
                delete(UsedAssertionRow).where(UsedAssertionRow.expires_at < now),
                delete(AccessTokenRow).where(AccessTokenRow.expires_at < now - TOKENS_KEPT),
                delete(AuthenticationEventRow).where(AuthenticationEventRow.time < now - config.history_retention),
                delete(EventRow).where(EventRow.time < now - config.traffic_retention),
                delete(TrafficRow).where(TrafficRow.minute < now - config.traffic_retention),
                delete(OpenStreamsRow).where(OpenStreamsRow.minute < now - config.traffic_retention),
                delete(EventBatchRow).where(EventBatchRow.seen_at < now - BATCHES_KEPT),
                delete(FirstTimeRow).where(
                    FirstTimeRow.what != USE, FirstTimeRow.seen_at < now - config.history_retention
                ),
                delete(ConnectorRow).where(ConnectorRow.seen_at < now - CONNECTORS_KEPT),
                delete(EdgeNodeRow).where(EdgeNodeRow.seen_at < now - CONNECTORS_KEPT),
            ):
                await session.execute(statement)
