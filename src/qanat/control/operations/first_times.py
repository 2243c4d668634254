"""What is new of a tunnel: its first use, and connectors that have not served it before.

An edge node cannot know: it starts afresh, and there are others. Here all that nodes tell comes together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.api.internal import Event
from qanat.control.operations.context import Context
from qanat.control.store.database import insert_new
from qanat.control.store.tables import FirstTimeRow
from qanat.logger import get_logger

USE = "use"
_Key = tuple[str, str]
log = get_logger("qanat.control")


class FirstTimes:
    """Remembers what was seen; a fingerprint nobody shows for `history_retention` is forgotten."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def judge(self, session: AsyncSession, events: Sequence[Event]) -> list[Event]:
        """The same events: registrations say whether the connector is `known`, and later first uses are left out."""
        keys = {key for event in events if (key := _key(event)) is not None}
        new = {key for key in sorted(keys) if await self._is_new(session, key)}  # sorted: two nodes cannot deadlock
        judged = []
        for event in events:
            key = _key(event)
            first = key in new
            new -= {key} if key is not None else set()
            if event.kind == "connector_registered" and key is not None:
                judged.append(event.model_copy(update={"fields": event.fields | {"known": not first}}))
            elif event.kind != "tunnel_first_use" or first:
                judged.append(event)
        return judged

    async def _is_new(self, session: AsyncSession, key: _Key) -> bool:
        tunnel_id, what = key
        now = self._context.now()
        if await insert_new(session, FirstTimeRow, tunnel_id=tunnel_id, what=what, seen_at=now):
            return True
        this = (FirstTimeRow.tunnel_id == tunnel_id, FirstTimeRow.what == what)
        await session.execute(update(FirstTimeRow).where(*this).values(seen_at=now))
        return False


def announce(events: Sequence[Event]) -> Counter[str]:
    """Log what was new, once it is kept, and count it: `tunnel`s, `connector`s."""
    new: Counter[str] = Counter()
    for event in events:
        if event.kind == "tunnel_first_use":
            new["tunnel"] += 1
            log.info("tunnel first use", tunnel=event.tunnel_id, node=event.node)
        elif event.kind == "connector_registered" and event.fields.get("known") is False:
            new["connector"] += 1
            told = {name: event.fields.get(name) for name in ("connector_id", "version", "address")}
            log.info("connector not seen before", tunnel=event.tunnel_id, node=event.node, **told)
    return new


def _key(event: Event) -> _Key | None:
    """What an event says of a tunnel; None when nothing can be new about it."""
    if event.tunnel_id is None:
        return None
    if event.kind == "tunnel_first_use":
        return event.tunnel_id[:128], USE
    return (event.tunnel_id[:128], f"connector {fingerprint(event)}") if event.kind == "connector_registered" else None


def fingerprint(event: Event) -> str:
    """Of a connector: its version and architecture, and the host it comes from. SHA-256, 64 hex digits."""
    version, arch, address = (str(event.fields.get(name, "")) for name in ("version", "arch", "address"))
    host = address.rpartition(":")[0]
    return hashlib.sha256("\n".join((version, arch, host)).encode()).hexdigest()
