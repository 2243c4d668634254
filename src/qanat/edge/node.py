"""One node: the live connections, what is done when they come and go, and the registrar that connectors meet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from qanat.api.internal import TunnelRecord
from qanat.edge.connections import LiveConnections
from qanat.edge.events import EventQueue
from qanat.edge.metrics import Metrics
from qanat.edge.registrar import Refusal, TokenCheck
from qanat.ids import TunnelID
from qanat.tunnel.connection import EdgeConnection, Registered, RegistrationRequest

SNAPSHOT_EVERY = 60.0


class NodeRegistrar:
    """The `Registrar` of every connector connection of this node.

    `on_change` hears of a tunnel whenever its connections here change.
    """

    def __init__(self, check: TokenCheck, connections: LiveConnections, metrics: Metrics, events: EventQueue) -> None:
        self._check, self._connections = check, connections
        self._metrics, self._events = metrics, events
        self._tunnels: dict[UUID, TunnelID] = {}
        self.on_change: Callable[[UUID], None] = lambda _: None

    async def register(self, request: RegistrationRequest) -> Registered:
        """See `Registrar`. Raises `RegistrationRefused`."""
        try:
            record, registered = await self._check.admit(request)
        except Refusal as refusal:
            self._metrics.registrations.labels(refusal.name).inc()
            tunnel = self._tunnels.get(request.tunnel_uuid)
            self._events.emit(
                "connector_refused",
                tunnel,
                reason=refusal.name,
                tunnel_uuid=str(request.tunnel_uuid),
                **describe(request),
            )
            raise
        self._tunnels[record.uuid] = record.id
        return registered

    def connection_ready(self, connection: EdgeConnection) -> None:
        """See `Registrar`."""
        request = connection.request
        old = self._connections.add(connection)
        self._metrics.registrations.labels("registered").inc()
        self._metrics.connections.labels(request.connector.protocol).inc()
        self._events.emit(
            "connector_registered",
            self._tunnels.get(request.tunnel_uuid),
            connection_id=str(connection.registered.connection_id),
            replaced=old is not None,
            instance=self._events.instance,
            **describe(request),
        )
        if old is not None:
            old.close()
        self.on_change(request.tunnel_uuid)

    def connection_draining(self, connection: EdgeConnection) -> None:
        """See `Registrar`."""
        if self._connections.leave(connection):
            self.on_change(connection.request.tunnel_uuid)

    def connection_lost(self, connection: EdgeConnection, exc: Exception | None) -> None:
        """See `Registrar`."""
        request = connection.request
        if not self._connections.remove(connection):
            return
        self._metrics.connections.labels(request.connector.protocol).dec()
        reason = None if exc is None else str(exc) or type(exc).__name__
        self._events.emit("connector_lost", self._tunnels.get(request.tunnel_uuid), reason=reason, **describe(request))
        self.on_change(request.tunnel_uuid)

    def tunnel_changed(self, record: TunnelRecord) -> None:
        """Close the connections of an archived tunnel. A rotated token leaves live ones alone."""
        if record.archived:
            for connection in self._connections.of_tunnel(record.uuid):
                connection.close()

    async def report(self) -> None:
        """Tell operators every minute what is connected: so they also see what vanished without a word."""
        while True:
            await asyncio.sleep(SNAPSHOT_EVERY)
            for uuid in list(self._connections.tunnels()):
                live = self._connections.of_tunnel(uuid)
                connectors = {each.request.connector.connector_id for each in live}
                self._events.emit(
                    "connectors_snapshot",
                    self._tunnels.get(uuid),
                    connections=len(live),
                    connectors=len(connectors),
                    streams=sum(each.open_streams for each in live),
                )

    async def drain(self, seconds: float) -> None:
        """Move the connectors away one by one: each connection is closed once its streams have ended, or its share
        of `seconds` has passed, so that a connector never loses all of them at one moment."""
        self._check.draining = True
        connections = list(self._connections)
        for position, connection in enumerate(connections):
            left = len(connections) - position
            started = asyncio.get_running_loop().time()
            self.connection_draining(connection)
            connection.drain()
            try:
                async with asyncio.timeout(seconds / left):
                    await connection.wait_closed()
            except TimeoutError:
                connection.close()
            seconds = max(0.0, seconds - (asyncio.get_running_loop().time() - started))


def describe(request: RegistrationRequest) -> dict[str, str | int]:
    """A connector, in the fields of an event."""
    connector = request.connector
    return {
        "connector_id": str(connector.connector_id),
        "version": connector.version[:64],
        "arch": connector.arch[:64],
        "address": connector.address,
        "protocol": connector.protocol,
        "conn_index": request.conn_index,
    }
