"""What edges and gateways tell: connectors come and go, traffic, calls. Kept for the console, not for ever.

Traffic and calls are summed per tunnel and minute; every event but bare traffic is kept. Bytes are summed from what
edges tell and nothing else: a gateway's calls are among them. A batch that is told again, because its node never heard
the answer, changes nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.api.internal import Event, EventBatch
from qanat.control.nouns import OperatorEvent, Page, TrafficPoint
from qanat.control.operations.connectors import Connectors, short
from qanat.control.operations.context import Actor, Context
from qanat.control.operations.first_times import FirstTimes, announce
from qanat.control.operations.history import cursor_after, read_cursor_number
from qanat.control.operations.pages import PageRequest
from qanat.control.operations.tunnels import find_tunnel
from qanat.control.operations.watches import WatchedRoutes
from qanat.control.store.database import insert_into, insert_new
from qanat.control.store.tables import EventBatchRow, EventRow, OpenStreamsRow, TrafficRow, TunnelRow

NOT_KEPT = ("traffic", "canary", "node_alive")
"""Traffic is summed, a node's life is a lease; of probes only what changed is kept, which their own table knows."""
SUMS = ("calls", "errors", "bytes_in", "bytes_out", "duration_ms", "streams_opened")
PEAKS = ("slowest_ms",)
MOVED = ("bytes_in", "bytes_out", "streams_opened")
"""What only edges tell: a gateway tells of the same bytes with its calls."""
_Key = tuple[str, datetime]


class Events:
    """The event store."""

    def __init__(self, context: Context, watches: WatchedRoutes, connectors: Connectors) -> None:
        self._context, self._watches, self._connectors = context, watches, connectors
        self._first_times = FirstTimes(context)

    async def record(self, batch: EventBatch) -> Counter[str]:
        """Keep a batch, all of it or nothing. Returns what happened for the first time: `tunnel`s, `connector`s."""
        async with self._context.database.write() as session:
            if batch.id and not await insert_new(session, EventBatchRow, id=batch.id, seen_at=self._context.now()):
                return Counter()
            events = await self._first_times.judge(session, batch.events)
            session.add_all(_row(event) for event in events if event.kind not in NOT_KEPT)
            for event in events:
                await self._connectors.hear(session, event)
                await self._watches.hear(session, event)
            await _add_traffic(session, events)
            await _add_open_streams(session, events)
        return announce(events)

    async def traffic(
        self, actor: Actor, tunnel_id: str, since: datetime, until: datetime, step: timedelta = timedelta(minutes=1)
    ) -> list[TrafficPoint]:
        """What a tunnel did, per `step`, oldest first; times without any traffic are left out."""
        query = select(TrafficRow).where(*_in_time(TrafficRow, tunnel_id, since, until)).order_by(TrafficRow.minute)
        opened = select(OpenStreamsRow.minute, func.sum(OpenStreamsRow.most)).group_by(OpenStreamsRow.minute)
        opened = opened.where(*_in_time(OpenStreamsRow, tunnel_id, since, until))
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
            rows = (await session.scalars(query)).all()
            streams = (await session.execute(opened)).all()
        points: dict[datetime, Counter[str]] = defaultdict(Counter)
        for row in rows:
            point = points[since + (row.minute - since) // step * step]
            point.update({name: getattr(row, name) for name in SUMS})
            for name in PEAKS:
                point[name] = max(point[name], getattr(row, name))
        for minute, most in streams:
            point = points[since + (minute - since) // step * step]
            point["streams_open"] = max(point["streams_open"], int(most))
        names = (*SUMS, *PEAKS, "streams_open")
        return [TrafficPoint(time=time, **{name: point[name] for name in names}) for time, point in points.items()]

    async def list_page(
        self, actor: Actor, request: PageRequest, *, tunnel_id: str | None = None, kinds: Sequence[str] = ()
    ) -> Page[OperatorEvent]:
        """Events, newest first; of one tunnel and of some kinds when asked. `kinds=("call",)` are the last calls."""
        query = select(EventRow)
        if tunnel_id is not None:
            query = query.where(EventRow.tunnel_id == tunnel_id)
        else:
            mine = select(TunnelRow.id).where(TunnelRow.organization_id == actor.organization_id)
            query = query.where(EventRow.tunnel_id.is_(None) | EventRow.tunnel_id.in_(mine))
        if kinds:
            query = query.where(EventRow.kind.in_(kinds))
        if request.page is not None:
            query = query.where(EventRow.id < read_cursor_number(request.page))
        async with self._context.database.read() as session:
            if tunnel_id is not None:
                await find_tunnel(session, actor, tunnel_id)
            rows = (await session.scalars(query.order_by(EventRow.id.desc()).limit(request.limit + 1))).all()
        shown = [show(row) for row in rows[: request.limit]]
        return Page(data=shown, next_page=cursor_after(shown[-1].id) if len(rows) > request.limit else None)


def _in_time(
    table: type[TrafficRow | OpenStreamsRow], tunnel_id: str, since: datetime, until: datetime
) -> Sequence[ColumnElement[bool]]:
    return table.tunnel_id == tunnel_id, table.minute >= since, table.minute < until


def _row(event: Event) -> EventRow:
    return EventRow(
        time=event.time,
        kind=event.kind,
        node=event.node[:128],
        tunnel_id=None if event.tunnel_id is None else event.tunnel_id[:128],
        fields=short(event.fields),
    )


async def _add_traffic(session: AsyncSession, events: Sequence[Event]) -> None:
    """Add to the minutes' sums."""
    sums: dict[_Key, Counter[str]] = defaultdict(Counter)
    for event in events:
        if event.tunnel_id is not None and event.kind in ("traffic", "call"):
            _add_event(sums[event.tunnel_id[:128], _minute(event)], event)
    for (tunnel_id, minute), point in sorted(sums.items()):
        values = {name: point[name] for name in (*SUMS, *PEAKS)}
        statement = insert_into(session, TrafficRow).values(tunnel_id=tunnel_id, minute=minute, **values)
        added: dict[str, Any] = {name: getattr(TrafficRow, name) + values[name] for name in SUMS}
        for name in PEAKS:
            column = getattr(TrafficRow, name)
            added[name] = case((column < values[name], values[name]), else_=column)
        await session.execute(statement.on_conflict_do_update(index_elements=["tunnel_id", "minute"], set_=added))


async def _add_open_streams(session: AsyncSession, events: Sequence[Event]) -> None:
    """Keep the most of each node, minute by minute: nodes are added up when somebody looks."""
    most: Counter[tuple[str, datetime, str]] = Counter()
    for event in events:
        if event.tunnel_id is not None and event.kind == "traffic" and (found := _whole(event, "streams_open")):
            key = event.tunnel_id[:128], _minute(event), event.node[:128]
            most[key] = max(most[key], found)
    column = OpenStreamsRow.most
    for (tunnel_id, minute, node), found in sorted(most.items()):
        statement = insert_into(session, OpenStreamsRow).values(
            tunnel_id=tunnel_id, minute=minute, node=node, most=found
        )
        more = {"most": case((column < found, found), else_=column)}
        await session.execute(
            statement.on_conflict_do_update(index_elements=["tunnel_id", "minute", "node"], set_=more)
        )


def _minute(event: Event) -> datetime:
    return event.time.replace(second=0, microsecond=0)


def _add_event(point: Counter[str], event: Event) -> None:
    if event.kind == "call":
        duration = _whole(event, "duration_ms")
        point["calls"] += 1
        point["errors"] += 1 if event.fields.get("error") else 0
        point["duration_ms"] += duration
        point["slowest_ms"] = max(point["slowest_ms"], duration)
        return
    for name in MOVED:
        point[name] += _whole(event, name)


def _whole(event: Event, name: str) -> int:
    value = event.fields.get(name)
    return min(int(value), 2**53) if isinstance(value, int | float) and value > 0 else 0


def show(row: EventRow) -> OperatorEvent:
    return OperatorEvent(
        id=row.id, time=row.time, kind=row.kind, node=row.node, tunnel_id=row.tunnel_id, fields=row.fields
    )
