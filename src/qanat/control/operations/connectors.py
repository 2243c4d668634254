"""Who is connected to which edge node now, and which nodes have fallen silent.

A node holds a lease: it speaks every two seconds, and what it told of counts for as long as it does. Each start of a
node is an instance of its own, so that connections of one that was killed do not live on in the one that replaced it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.api.internal import Event
from qanat.control.nouns import Connector
from qanat.control.operations.context import Actor, Context
from qanat.control.operations.tunnels import find_tunnel
from qanat.control.store.database import insert_new
from qanat.control.store.tables import ConnectorRow, EdgeNodeRow

LEASE = timedelta(seconds=6)
"""A node that has not spoken for so long is silent: three of its words are missing."""
STALE = timedelta(minutes=5)
"""What a silent node told of is forgotten after so long. Nodes of older versions tell every minute."""
MAX_TEXT = 1024
_Instance = tuple[str, str]


class Connectors:
    """The connections of all tunnels, as edge nodes tell of them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = context.now()  # nobody could speak to us before: no lease ends sooner than a lease from here

    async def hear(self, session: AsyncSession, event: Event) -> None:
        """Learn from what an edge node tells."""
        node = event.node[:128]
        if event.kind == "node_alive":
            await self._renew(session, (node, _instance(event.fields)))
        if event.tunnel_id is None:
            return
        here = (ConnectorRow.tunnel_id == event.tunnel_id, ConnectorRow.node == node)
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
                        node=node,
                        connector_id=connector_id,
                        conn_index=index,
                        connected_at=event.time,
                        seen_at=self._context.now(),
                        fields=short(event.fields),
                    )
                )
            await session.flush()

    async def _renew(self, session: AsyncSession, instance: _Instance) -> None:
        name, number = instance
        now = self._context.now()
        if not await insert_new(session, EdgeNodeRow, name=name, instance=number, seen_at=now):
            this = (EdgeNodeRow.name == name, EdgeNodeRow.instance == number)
            await session.execute(update(EdgeNodeRow).where(*this).values(seen_at=now))

    async def of_tunnel(self, actor: Actor, tunnel_id: str) -> list[Connector]:
        """The connections of one tunnel, oldest first. Raises `NotFound`."""
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
        return (await self.of_tunnels([tunnel_id])).get(tunnel_id, [])

    async def of_tunnels(self, tunnel_ids: Sequence[str]) -> dict[str, list[Connector]]:
        """The connections of these tunnels; those without are left out. The caller has checked who may see them."""
        query = select(ConnectorRow).where(ConnectorRow.tunnel_id.in_(tunnel_ids)).order_by(ConnectorRow.connected_at)
        async with self._context.database.read() as session:
            rows = (await session.scalars(query)).all()
            names = {row.node for row in rows}
            nodes = (await session.scalars(select(EdgeNodeRow).where(EdgeNodeRow.name.in_(names)))).all()
        heard = {(node.name, node.instance): node.seen_at for node in nodes}
        leases = _Leases(heard, self._started, self._context.now())
        found: dict[str, list[Connector]] = {}
        for row in rows:
            if leases.holds(row):
                found.setdefault(row.tunnel_id, []).append(_show(row, leases.silent_since(row)))
        return found

    async def edge_is_up(self) -> bool:
        """Whether any edge node is heard of. Also true when none has ever been: those of older versions say nothing."""
        query = select(EdgeNodeRow.seen_at).order_by(EdgeNodeRow.seen_at.desc()).limit(1)
        async with self._context.database.read() as session:
            newest = (await session.scalars(query)).first()
        return newest is None or self._context.now() - max(newest, self._started) <= LEASE


class _Leases:
    """When each instance of a node was last heard of, judged at one moment."""

    def __init__(self, heard: dict[_Instance, datetime], started: datetime, now: datetime) -> None:
        self._heard, self._started, self._now = heard, started, now
        self._live = {name for (name, _), time in heard.items() if self._age(time) <= LEASE}

    def _age(self, heard: datetime) -> timedelta:
        return self._now - max(heard, self._started)

    def _of(self, row: ConnectorRow) -> datetime | None:
        return self._heard.get((row.node, _instance(row.fields)))

    def silent_since(self, row: ConnectorRow) -> datetime | None:
        """When the row's node was last heard of, if that is too long ago."""
        heard = self._of(row)
        return heard if heard is not None and self._age(heard) > LEASE else None

    def holds(self, row: ConnectorRow) -> bool:
        """Whether the connection may be there still."""
        heard = self._of(row)
        if heard is not None and self._age(heard) > LEASE and row.node in self._live:
            return False  # the node was started anew
        return self._now - max(row.seen_at, heard or row.seen_at) < STALE


def _instance(fields: dict[str, Any]) -> str:
    return str(fields.get("instance", ""))[:64]


def _connection_of(event: Event) -> tuple[str, int]:
    index = event.fields.get("conn_index")
    return str(event.fields.get("connector_id", ""))[:64], index if isinstance(index, int) and 0 <= index < 2**31 else 0


def short(fields: dict[str, Any]) -> dict[str, Any]:
    """What a node told, as a database can hold it: text cut, and without the one character PostgreSQL refuses."""
    return {
        name[:64].replace("\0", ""): value[:MAX_TEXT].replace("\0", "") if isinstance(value, str) else value
        for name, value in list(fields.items())[:64]
    }


def _show(row: ConnectorRow, silent_since: datetime | None) -> Connector:
    names = Connector.model_fields.keys() - {"silent_since"}
    return Connector.model_validate({name: getattr(row, name) for name in names} | {"silent_since": silent_since})
