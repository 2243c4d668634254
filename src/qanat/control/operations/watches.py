"""Which routes of tunnels are probed end to end, and what the probes said.

People add routes, and calls that went well teach them. Gateways probe; a verdict nobody has renewed for `STALE` is no
verdict any more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.api.internal import Event, Watch, Watches
from qanat.control.errors import Invalid
from qanat.control.nouns import WatchedRoute
from qanat.control.operations.context import Actor, Context, audit
from qanat.control.operations.tunnels import find_live_tunnel, find_tunnel
from qanat.control.store.database import insert_new
from qanat.control.store.tables import EventRow, TunnelRow, WatchRow
from qanat.ids import TunnelID

STALE = timedelta(seconds=8)
"""A verdict older than this is unknown. Probes come every three seconds, and take four at most."""
MAX_PER_TUNNEL = 20
_ROUTE = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_PATH = re.compile(r"/[\x21\x24-\x3b\x3d\x40-\x5b\x5d\x5f\x61-\x7a\x7e%]*")


class WatchedRoutes:
    """The watches of all tunnels."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def add(self, actor: Actor, tunnel_id: str, route: str, path: str) -> None:
        """Watch a route from now on; one that is watched stays. Raises `Invalid`, `TunnelArchived`."""
        route, path = check(route, path)
        async with self._context.database.write() as session:
            await find_live_tunnel(session, actor, tunnel_id)
            if await _count(session, tunnel_id) >= MAX_PER_TUNNEL:
                raise Invalid("route", f"at most {MAX_PER_TUNNEL} routes of a tunnel are watched")
            if await self._insert(session, tunnel_id, route, path, "person"):
                audit(session, self._context, actor, "tunnel.watch", tunnel_id, route=route, path=path)

    async def remove(self, actor: Actor, tunnel_id: str, route: str, path: str) -> None:
        """Probe it no more; nothing happens when it is not watched."""
        this = (WatchRow.tunnel_id == tunnel_id, WatchRow.route == route, WatchRow.path == path)
        async with self._context.database.write() as session:
            await find_tunnel(session, actor, tunnel_id)
            await session.execute(delete(WatchRow).where(*this))
            audit(session, self._context, actor, "tunnel.unwatch", tunnel_id, route=route, path=path)

    async def of_tunnels(self, tunnel_ids: Sequence[str]) -> dict[str, list[WatchedRoute]]:
        """Every watched route with its verdict, by tunnel. The caller has checked who may see these tunnels."""
        query = select(WatchRow).where(WatchRow.tunnel_id.in_(tunnel_ids)).order_by(WatchRow.route, WatchRow.path)
        async with self._context.database.read() as session:
            rows = (await session.scalars(query)).all()
        found: dict[str, list[WatchedRoute]] = {}
        for row in rows:
            found.setdefault(row.tunnel_id, []).append(self._show(row))
        return found

    async def to_probe(self) -> Watches:
        """The routes of all live tunnels, for gateways."""
        query = (
            select(WatchRow, TunnelRow.domain)
            .join(TunnelRow, TunnelRow.id == WatchRow.tunnel_id)
            .where(TunnelRow.archived_at.is_(None))
        )
        async with self._context.database.read() as session:
            rows = (await session.execute(query)).all()
        watches = (
            Watch(tunnel_id=TunnelID(row.tunnel_id), domain=domain, route=row.route, path=row.path)
            for row, domain in rows
        )
        return Watches(watches=tuple(watches))

    async def hear(self, session: AsyncSession, event: Event) -> None:
        """Learn a route from a call that went well, or a verdict from a probe."""
        if event.tunnel_id is None or event.kind not in ("call", "canary"):
            return
        try:
            route, path = check(str(event.fields.get("route", "")), str(event.fields.get("path", "")))
        except Invalid:
            return
        row = await session.get(WatchRow, (event.tunnel_id, route, path))
        if event.kind == "canary" and row is not None:
            self._judge(session, row, event)
        elif event.kind == "call" and row is None and not event.fields.get("error"):
            known = await session.get(TunnelRow, event.tunnel_id)
            if known is not None and await _count(session, event.tunnel_id) < MAX_PER_TUNNEL:
                await self._insert(session, event.tunnel_id, route, path, "calls")

    def _judge(self, session: AsyncSession, row: WatchRow, event: Event) -> None:
        """Every probe renews the verdict; only another verdict is an event to keep."""
        fields, now = event.fields, self._context.now()
        ok, hop = fields.get("ok") is True, str(fields.get("hop") or "")[:32] or None
        if (row.ok, row.hop) != (ok, hop):
            row.changed_at = now
            session.add(
                EventRow(time=event.time, kind=event.kind, node=event.node[:128], tunnel_id=row.tunnel_id,
                         fields={"route": row.route, "path": row.path, "ok": ok, "hop": hop})
            )  # fmt: skip
        row.ok, row.hop, row.seen_at, row.node = ok, hop, now, event.node[:128]
        row.error = str(fields["error"])[:1024].replace("\0", "") if fields.get("error") else None
        row.times = {name: fields[name] for name in ("tunnel_ms", "upstream_ms") if name in fields}

    async def _insert(self, session: AsyncSession, tunnel_id: str, route: str, path: str, source: str) -> bool:
        return await insert_new(
            session, WatchRow, tunnel_id=tunnel_id, route=route, path=path, source=source,
            created_at=self._context.now(), times={},
        )  # fmt: skip

    def _show(self, row: WatchRow) -> WatchedRoute:
        fresh = row.seen_at is not None and row.seen_at > self._context.now() - STALE
        return WatchedRoute(
            route=row.route, path=row.path, source=row.source, ok=row.ok if fresh else None,
            hop=row.hop if fresh else None, error=row.error if fresh else None, times=row.times if fresh else {},
            changed_at=row.changed_at, seen_at=row.seen_at,
        )  # fmt: skip


def check(route: str, path: str) -> tuple[str, str]:
    """Route and path in the form they are stored. Raises `Invalid`."""
    route, path = route.strip().lower(), "/" + path.strip().lstrip("/")
    if len(route) > 253 or not _ROUTE.fullmatch(route):
        raise Invalid("route", "must be the name before the tunnel's domain, such as wiki")
    if len(path) > 512 or not _PATH.fullmatch(path):
        raise Invalid("path", "must be a URL path without query, such as /mcp")
    return route, path


async def _count(session: AsyncSession, tunnel_id: str) -> int:
    query = select(func.count()).select_from(WatchRow).where(WatchRow.tunnel_id == tunnel_id)
    return (await session.execute(query)).scalar_one()
