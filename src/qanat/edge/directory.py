"""What the edge asks about tunnels, and of whom: these protocols, answered by a client of the control plane.

In tests a dictionary answers. `cache.py` stands between them and the edge, and survives the control plane.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol
from uuid import UUID

from qanat.api.internal import Change, EventBatch, TunnelRecord


class TunnelDirectory(Protocol):
    """The source of truth. Every method raises `QanatError` or `OSError` when it cannot answer now."""

    async def by_uuid(self, uuid: UUID) -> TunnelRecord | None:
        """The tunnel with this wire id, archived ones too; None when there is none."""
        ...

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        """The tunnel with this domain (lowercase), archived ones too; None when there is none."""
        ...

    def changes(self, after: int | None) -> AsyncIterator[Change]:
        """What changes from now on, or since the cursor `after`; a heartbeat comes first and every 5 s."""
        ...

    async def send_events(self, batch: EventBatch) -> None:
        """Store what operators want to see."""
        ...
