"""What edges and gateways tell: connectors come and go, traffic, calls. Kept for the console, not for ever.

Connectors are a table of what is there now; traffic and calls are summed per tunnel and minute; every event but bare
traffic is kept as it came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.api.internal import Event, EventBatch
from qanat.control.nouns import Connector, OperatorEvent, Page, TrafficPoint
from qanat.control.operations.context import Actor, Context
from qanat.control.operations.history import cursor_after, read_cursor_number
from qanat.control.operations.pages import PageRequest
from qanat.control.operations.tunnels import find_tunnel
from qanat.control.operations.watches import WatchedRoutes
from qanat.control.store.tables import ConnectorRow, EventRow, TrafficRow, TunnelRow

STALE = timedelta(minutes=5)
"""A connector is gone when its edge, which tells every minute, has not spoken of it for so long."""
MAX_TEXT = 1024
NOT_KEPT = ("traffic", "canary")
"""Traffic is summed; of probes only what changed is kept, which their own table knows."""
SUMS = ("calls", "errors", "bytes_in", "bytes_out", "duration_ms")
_Key = tuple[str, datetime]


class Events:
    """The event store."""

    def __init__(self, context: Context, watches: WatchedRoutes) -> None:
        self._context, self._watches = context, watches

    async def record(self, batch: EventBatch) -> None:
        """Keep a batch, all of it or nothing."""
        async with self._context.database.write() as session:
            session.add_all(_row(event) for event in batch.events if event.kind not in NOT_KEPT)
            for event in batch.events:
                await self._track_connector(session, event)
                await self._watches.hear(session, event)
            await _add_traffic(session, batch.events)

    async def _track_connector(self, session: AsyncSession, event: Event) -> None:
        if event.tunnel_id is None:
            return
        here = (ConnectorRow.tunnel_id == event.tunnel_id, ConnectorRow.node == event.node[:128])
        if event.kind == "connectors_snapshot":
            await session.execute(update(ConnectorRow).where(*here).values(seen_at=self._context.now()))
        elif event.kind in ("connector_registered", "connector_lost"):
            connector_id, index = _connection_of(event)
            this = (*here, ConnectorRow.connector_id == connector_id, ConnectorRow.conn_index == index)
            await session.execute(delete(ConnectorRow).where(*this))
            if event.kind == "connector_registered":
                session.add(
                    ConnectorRow(
                        tunnel_id=event.tunnel_id,
                        node=event.node[:128],
                        connector_id=connector_id,
                        conn_index=index,
                        connected_at=event.time,
                        seen_at=self._context.now(),
                        fields=_short(event.fields),
                    )
                )
            await session.flush()

    async def connectors(self, actor: Actor, tunnel_id: str) -> list[Connector]:
        """The connections connectors have to edges now, oldest first."""
        fresh = ConnectorRow.seen_at > self._context.now() - STALE
        query = select(ConnectorRow).where(ConnectorRow.tunnel_id == tunnel_id, fresh)
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
            rows = (await session.scalars(query.order_by(ConnectorRow.connected_at))).all()
        return [Connector.model_validate({name: getattr(row, name) for name in Connector.model_fields}) for row in rows]

    async def connected(self, tunnel_ids: Sequence[str]) -> dict[str, int]:
        """How many connections each of these tunnels has now; those without are left out."""
        fresh = ConnectorRow.seen_at > self._context.now() - STALE
        query = select(ConnectorRow.tunnel_id).where(ConnectorRow.tunnel_id.in_(tunnel_ids), fresh)
        async with self._context.database.read() as session:
            return dict(Counter((await session.scalars(query)).all()))

    async def traffic(
        self, actor: Actor, tunnel_id: str, since: datetime, until: datetime, step: timedelta = timedelta(minutes=1)
    ) -> list[TrafficPoint]:
        """What a tunnel did, per `step`, oldest first; times without any traffic are left out."""
        query = select(TrafficRow).where(
            TrafficRow.tunnel_id == tunnel_id, TrafficRow.minute >= since, TrafficRow.minute < until
        )
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
            rows = (await session.scalars(query.order_by(TrafficRow.minute))).all()
        points: dict[datetime, Counter[str]] = defaultdict(Counter)
        for row in rows:
            point = points[since + (row.minute - since) // step * step]
            point.update({name: getattr(row, name) for name in SUMS})
            point["slowest_ms"] = max(point["slowest_ms"], row.slowest_ms)
        return [
            TrafficPoint(time=time, slowest_ms=sums["slowest_ms"], **{name: sums[name] for name in SUMS})
            for time, sums in points.items()
        ]

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


def _row(event: Event) -> EventRow:
    return EventRow(
        time=event.time,
        kind=event.kind,
        node=event.node[:128],
        tunnel_id=None if event.tunnel_id is None else event.tunnel_id[:128],
        fields=_short(event.fields),
    )


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields a database can hold: text cut, and without the one character PostgreSQL refuses."""
    return {
        name[:64].replace("\0", ""): value[:MAX_TEXT].replace("\0", "") if isinstance(value, str) else value
        for name, value in list(fields.items())[:64]
    }


def _connection_of(event: Event) -> tuple[str, int]:
    index = event.fields.get("conn_index")
    return str(event.fields.get("connector_id", ""))[:64], index if isinstance(index, int) else 0


async def _add_traffic(session: AsyncSession, events: Sequence[Event]) -> None:
    """Add to the minutes' sums. Calls count themselves; bytes come with either kind."""
    sums: dict[_Key, Counter[str]] = defaultdict(Counter)
    for event in events:
        if event.tunnel_id is None or event.kind not in ("traffic", "call"):
            continue
        point = sums[event.tunnel_id[:128], event.time.replace(second=0, microsecond=0)]
        duration = _whole(event, "duration_ms")
        if event.kind == "call":
            point["calls"] += 1
            point["errors"] += 1 if event.fields.get("error") else 0
        point["bytes_in"] += _whole(event, "bytes_in")
        point["bytes_out"] += _whole(event, "bytes_out")
        point["duration_ms"] += duration
        point["slowest_ms"] = max(point["slowest_ms"], duration)
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    for (tunnel_id, minute), point in sorted(sums.items()):
        values = {name: point[name] for name in (*SUMS, "slowest_ms")}
        statement = dialect.insert(TrafficRow).values(tunnel_id=tunnel_id, minute=minute, **values)
        added: dict[str, Any] = {name: getattr(TrafficRow, name) + values[name] for name in SUMS}
        await session.execute(statement.on_conflict_do_update(index_elements=["tunnel_id", "minute"], set_=added))
        slower = (TrafficRow.tunnel_id == tunnel_id, TrafficRow.minute == minute)
        slowest = update(TrafficRow).where(*slower, TrafficRow.slowest_ms < values["slowest_ms"])
        await session.execute(slowest.values(slowest_ms=values["slowest_ms"]))


def _whole(event: Event, name: str) -> int:
    value = event.fields.get(name)
    return min(int(value), 2**53) if isinstance(value, int | float) and value > 0 else 0


def show(row: EventRow) -> OperatorEvent:
    return OperatorEvent(
        id=row.id, time=row.time, kind=row.kind, node=row.node, tunnel_id=row.tunnel_id, fields=row.fields
    )
