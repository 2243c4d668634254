"""The live connections of this node, by tunnel, and which of them gets the next stream. Pure but for the objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from uuid import UUID

from qanat.tunnel.connection import EdgeConnection

Key = tuple[UUID, UUID, int]
"""Tunnel, connector, index: a new connection with the same key replaces the old one, which is usually half-dead."""


def key_of(connection: EdgeConnection) -> Key:
    """What identifies a connection across its own reconnects."""
    request = connection.request
    return request.tunnel_uuid, request.connector.connector_id, request.conn_index


class LiveConnections:
    """Registered connections. Draining ones are no longer chosen, but still counted until they are gone."""

    def __init__(self) -> None:
        self._by_tunnel: dict[UUID, dict[Key, EdgeConnection]] = {}
        self._leaving: set[EdgeConnection] = set()

    def __len__(self) -> int:
        return sum(map(len, self._by_tunnel.values()))

    def __iter__(self) -> Iterator[EdgeConnection]:
        for connections in self._by_tunnel.values():
            yield from connections.values()

    @property
    def leaving(self) -> frozenset[EdgeConnection]:
        """Those that take no new streams but still carry some."""
        return frozenset(self._leaving)

    def tunnels(self) -> Iterable[UUID]:
        """The tunnels with at least one connection here that takes streams."""
        return self._by_tunnel.keys()

    def of_tunnel(self, tunnel: UUID) -> tuple[EdgeConnection, ...]:
        """Its connections that take streams."""
        return tuple(self._by_tunnel.get(tunnel, {}).values())

    def of_connector(self, tunnel: UUID, connector: UUID) -> tuple[EdgeConnection, ...]:
        """One connector's connections that take streams."""
        found = self._by_tunnel.get(tunnel, {}).items()
        return tuple(connection for (_, owner, _), connection in found if owner == connector)

    def add(self, connection: EdgeConnection) -> EdgeConnection | None:
        """Take it in; returns the one that it replaces, which the caller closes."""
        connections = self._by_tunnel.setdefault(connection.request.tunnel_uuid, {})
        key = key_of(connection)
        old = connections.get(key)
        connections[key] = connection
        if old is not None:
            self._leaving.add(old)
        return old

    def leave(self, connection: EdgeConnection) -> bool:
        """Give it no more streams; False when it was gone or leaving already."""
        if not self._take_out(connection):
            return False
        self._leaving.add(connection)
        return True

    def remove(self, connection: EdgeConnection) -> bool:
        """It is lost; False when it was not here."""
        known = connection in self._leaving
        self._leaving.discard(connection)
        return self._take_out(connection) or known

    def _take_out(self, connection: EdgeConnection) -> bool:
        tunnel, key = connection.request.tunnel_uuid, key_of(connection)
        connections = self._by_tunnel.get(tunnel, {})
        if connections.get(key) is not connection:
            return False
        del connections[key]
        if not connections:
            del self._by_tunnel[tunnel]
        return True

    def candidates(self, tunnel: UUID) -> list[EdgeConnection]:
        """Its connections that take a stream now, the least loaded first."""
        free = [each for each in self._by_tunnel.get(tunnel, {}).values() if each.available_streams > 0]
        free.sort(key=lambda each: each.open_streams)
        return free

    def streams(self, tunnel: UUID) -> int:
        """Streams open on its connections."""
        return sum(each.open_streams for each in self._by_tunnel.get(tunnel, {}).values())
