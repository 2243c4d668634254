"""What edges and gateways need: tunnel records, and the stream of changes that tells them to forget.

A follower sees every change after its cursor, in commit order, from whichever control process made it: this process
wakes it at once, other processes' commits are found by a cheap poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.api.internal import Change, TunnelRecord
from qanat.control.errors import NotFound
from qanat.control.operations.certificates import live_certificates
from qanat.control.operations.context import Context
from qanat.control.store.tables import ChangeRow, CounterRow, TunnelRow
from qanat.ids import OrganizationID, TunnelID, WorkspaceID

POLL_INTERVAL = 0.5
HEARTBEAT_INTERVAL = 5.0
BATCH = 500
KEPT = 10_000
"""Changes a follower may be behind before it is told to forget everything."""


class DataPlane:
    """Answers for edges and gateways."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def tunnel_by_uuid(self, uuid: UUID) -> TunnelRecord:
        """Raises `NotFound`."""
        return await self._record(TunnelRow.uuid == str(uuid))

    async def tunnel_by_domain(self, domain: str) -> TunnelRecord:
        """Raises `NotFound`."""
        return await self._record(TunnelRow.domain == domain.lower().rstrip("."))

    async def _record(self, condition: ColumnElement[bool]) -> TunnelRecord:
        async with self._context.database.read() as session:
            row = (await session.scalars(select(TunnelRow).where(condition))).one_or_none()
            if row is None:
                raise NotFound("tunnel")
            certificates = await live_certificates(session, row.id)
        pems = [await self._context.open(item.pem_sealed, f"certificate {item.id}") for item in certificates]
        return TunnelRecord(
            id=TunnelID(row.id),
            uuid=UUID(row.uuid),
            account_tag=row.account_tag,
            secret_sha256=row.secret_sha256,
            domain=row.domain,
            organization_id=OrganizationID(row.organization_id),
            workspace_id=WorkspaceID(row.workspace_id),
            archived=row.archived_at is not None,
            ca_certificates=tuple(pem.decode() for pem in pems),
        )

    async def follow(self, after: int | None, closing: asyncio.Event) -> AsyncGenerator[Change, None]:
        """Changes after a cursor (None: from now on), with heartbeats, until `closing` is set.

        The first item is always sent at once: a heartbeat with the current cursor, or a reset.
        """
        first = await self._start(after)
        yield first
        cursor = first.cursor
        last_sent = self._context.clock.monotonic()
        while not closing.is_set():
            changed = self._context.changed
            changes = await self._after(cursor)
            for change in changes:
                yield change
                cursor = change.cursor
            if not changes and self._context.clock.monotonic() - last_sent >= HEARTBEAT_INTERVAL:
                yield Change(cursor=cursor, kind="heartbeat")
            elif not changes:
                await _wait(changed, closing)
                continue
            last_sent = self._context.clock.monotonic()

    async def _start(self, after: int | None) -> Change:
        async with self._context.database.read() as session:
            newest = await _newest(session)
            oldest = (await session.execute(select(func.min(ChangeRow.cursor)))).scalar_one_or_none()
        if after is None:
            return Change(cursor=newest, kind="heartbeat")
        # Behind what is kept, or ahead of what exists (a restored backup): either way nothing known can be trusted.
        if after > newest or (after < newest and (oldest is None or after < oldest - 1)):
            return Change(cursor=newest, kind="reset")
        return Change(cursor=after, kind="heartbeat")

    async def _after(self, cursor: int) -> list[Change]:
        query = select(ChangeRow).where(ChangeRow.cursor > cursor).order_by(ChangeRow.cursor).limit(BATCH)
        async with self._context.database.read() as session:
            rows = (await session.scalars(query)).all()
        return [
            Change(
                cursor=row.cursor,
                kind="tunnel",
                tunnel_id=TunnelID(row.tunnel_id),
                tunnel_uuid=UUID(row.tunnel_uuid),
                domain=row.domain,
            )
            for row in rows
        ]

    async def prune(self) -> None:
        """Drop changes nobody can need."""
        async with self._context.database.write() as session:
            newest = await _newest(session)
            await session.execute(delete(ChangeRow).where(ChangeRow.cursor <= newest - KEPT))


async def _newest(session: AsyncSession) -> int:
    return (await session.execute(select(CounterRow.value).where(CounterRow.name == "changes"))).scalar_one()


async def _wait(changed: asyncio.Event, closing: asyncio.Event) -> None:
    """Wait for either, a poll interval at most."""
    waiters = [asyncio.ensure_future(event.wait()) for event in (changed, closing)]
    try:
        await asyncio.wait(waiters, timeout=POLL_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
