"""The edge as a whole: builds the parts, starts the listeners, and stops them in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from qanat.api.control_client import ControlClient
from qanat.api.internal import TunnelRecord
from qanat.clock import SystemClock
from qanat.edge.balance import balance
from qanat.edge.cache import CachedDirectory
from qanat.edge.cluster_node import ClusterNode
from qanat.edge.config import EdgeConfig
from qanat.edge.connections import LiveConnections
from qanat.edge.directory import TunnelDirectory
from qanat.edge.events import EventQueue
from qanat.edge.listener_clients import ClientListener
from qanat.edge.listener_connectors import ConnectorListener
from qanat.edge.metrics import Metrics
from qanat.edge.node import NodeRegistrar
from qanat.edge.registrar import TokenCheck
from qanat.edge.router import Router
from qanat.edge.sessions import Sessions
from qanat.errors import ConfigInvalid
from qanat.logger import get_logger
from qanat.tunnel.connection import EdgeConnection
from qanat.tunnel.wss import accept_wss

LAST_WORDS = 2.0
"""Seconds a node that stops gives the control plane to take its last events."""

_log = get_logger("qanat.edge")


class Edge:
    """One edge node. `serve` makes and starts it."""

    connector_address: tuple[str, int]
    client_address: tuple[str, int]

    def __init__(self, config: EdgeConfig, source: TunnelDirectory) -> None:
        self.config, self._source = config, source
        limits = config.limits
        self.metrics = Metrics()
        self.connections = LiveConnections()
        self.events = EventQueue(config.name, SystemClock(), self.metrics)
        self.directory = CachedDirectory(source, self._tunnel_changed, self._tunnels_in_use)
        self.cluster = None if config.cluster is None else ClusterNode(config, self.connections, self.metrics)
        share = 2 if config.cluster is None else config.cluster.connections_per_connector
        self._check = TokenCheck(
            self.directory, self.connections, limits, config.name, share=share, others_up=self.others_up
        )
        self.registrar = NodeRegistrar(self._check, self.connections, self.metrics, self.events)
        self.router = Router(
            self.connections,
            open_timeout=limits.open_timeout.total_seconds(),
            streams_per_tunnel=limits.streams_per_tunnel,
            others=None if self.cluster is None else self.cluster.relay,
        )
        self.sessions = Sessions(
            self.directory, self.router, limits, self.metrics, self.events, lambda: config.client_organizations
        )
        self.clients = ClientListener(
            config, self.sessions, self.metrics, lambda address: accept_wss(self.registrar, address)
        )
        self.connectors = ConnectorListener(config, self.registrar, self.metrics)
        self._background: list[Coroutine[Any, Any, None]] = [
            self.directory.run(),
            self.sessions.sweep(),
            self.sessions.report_traffic(config.traffic_interval.total_seconds()),
            self.registrar.report(),
            self.connectors.watch(),
            balance(self.connections, share + 1, self.others_up, self._move),
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: asyncio.Task[None] | None = None
        self.metrics.following.set_function(lambda: self.directory.following)

    def others_up(self) -> bool:
        """Whether another node takes connectors now."""
        return self.cluster is not None and self.cluster.others_up()

    def _tunnels_in_use(self) -> set[UUID]:
        return {*self.connections.tunnels(), *self.sessions.tunnels()}

    def _tunnel_changed(self, record: TunnelRecord) -> None:
        self.registrar.tunnel_changed(record)
        if record.archived:
            self.sessions.of_tunnel_archived(record.id)

    def _move(self, connection: EdgeConnection) -> None:
        self.registrar.connection_draining(connection)
        self.sessions.move(connection)
        connection.drain()

    async def start(self, reuse_port: bool = False) -> None:
        """Listen. Raises `OSError` when an address is taken."""
        self._tasks = [asyncio.create_task(work) for work in self._background]
        self._telling = asyncio.create_task(self.events.run(self._source))
        if self.cluster is not None:
            self.registrar.on_change = await self.cluster.start(self.sessions)
        self.connector_address = await self.connectors.start(reuse_port)
        self.client_address = await self.clients.start(reuse_port)
        _log.info(
            "edge listening",
            name=self.config.name,
            connectors=self.connector_address,
            clients=self.client_address,
        )

    async def drain(self) -> None:
        """Leave without a lost call: no new guests, everybody asked to go elsewhere, `drain_timeout` at most."""
        seconds = self.config.drain_timeout.total_seconds()
        _log.info("edge draining", sessions=len(self.sessions), connections=len(self.connections), seconds=seconds)
        self.metrics.draining.set(1)
        self.clients.stop_listening()
        self.connectors.stop_listening()
        if self.cluster is not None:
            self.cluster.leave()
        self.sessions.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.registrar.drain(seconds)
                await self.sessions.empty.wait()
        _log.info("edge drained", sessions=len(self.sessions), connections=len(self.connections))

    async def close(self) -> None:
        """End everything now, and tell operators the last of it if the control plane listens."""
        await self.sessions.close()
        for connection in (*self.connections, *self.connections.leaving):
            connection.close()
        await asyncio.sleep(0)
        await self.clients.close()
        await self.connectors.close()
        if self.cluster is not None:
            await self.cluster.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.sessions.tell_traffic()
        self.events.stop()
        if self._telling is not None:
            _, late = await asyncio.wait([self._telling], timeout=LAST_WORDS)
            for task in late:
                task.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)


@asynccontextmanager
async def serve(
    config: EdgeConfig, directory: TunnelDirectory | None = None, *, reuse_port: bool = False
) -> AsyncIterator[Edge]:
    """A running edge. `reuse_port` lets several processes share its ports.

    Without a `directory` it asks the control plane of the configuration.

    Raises `ConfigInvalid` for files that cannot be used, `OSError` for addresses that are taken.
    """
    client: ControlClient | None = None
    if directory is None:
        client = connect_control(config)
        directory = client
    edge = Edge(config, directory)
    try:
        await edge.start(reuse_port)
        yield edge
    finally:
        await edge.close()
        if client is not None:
            await client.aclose()


def connect_control(config: EdgeConfig) -> ControlClient:
    """The client of the configured control plane. Raises `ConfigInvalid`."""
    control = config.control
    if control is None:
        raise ConfigInvalid(["control is required"])
    try:
        key = control.read_key()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not text")
        raise ConfigInvalid([f"control.service_key_file: {control.service_key_file}: {reason}"]) from error
    return ControlClient(control.url, key, ca_file=control.ca_file, timeout=control.timeout.total_seconds())
