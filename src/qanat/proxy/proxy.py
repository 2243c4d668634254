"""The proxy without its sockets: ends inner TLS, chooses the route, checks the address, forwards."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from qanat.logger import get_logger
from qanat.net.http1_fields import Header
from qanat.net.tls import HandshakeGate
from qanat.net.transport import Receiver
from qanat.net.websocket import WebSocketServer
from qanat.proxy.certificate import Certificate, days_left
from qanat.proxy.config import ProxyConfig
from qanat.proxy.dial import Dialler, Lookup, Resolver, SystemLookup
from qanat.proxy.errors import Draining, Overloaded
from qanat.proxy.files import digest
from qanat.proxy.forward import Forwarder
from qanat.proxy.inbound import Inbound
from qanat.proxy.inner import InnerSession
from qanat.proxy.inner_http1 import HTTP1Inbound
from qanat.proxy.inner_http2 import HTTP2Inbound
from qanat.proxy.listener import StreamDoor, upgrade_answer
from qanat.proxy.metrics import ProxyMetrics
from qanat.proxy.policy.build import PolicyBuilder
from qanat.proxy.pool import Pool
from qanat.proxy.route import BuildFilter, Route, build_route, files_of
from qanat.proxy.routes import RouteTable
from qanat.proxy.tracing.export import Exporter
from qanat.proxy.tracing.spans import Tracer
from qanat.tunnel.connection import IncomingStream

log = get_logger("qanat.proxy")
FAREWELL = 0.5
"""Seconds our Close frames get to reach their peers."""


class Proxy:
    """Accepts tunnel streams, from a listener or straight from a connector (it is a `StreamHandler`)."""

    def __init__(
        self,
        config: ProxyConfig,
        certificate: Certificate,
        *,
        lookup: Lookup | None = None,
        build_filter: BuildFilter | None = None,
    ) -> None:
        """Raises `ConfigInvalid` when a route's files cannot be used."""
        self.config, self.certificate = config, certificate
        self.metrics = ProxyMetrics()
        self.listening = True
        self._lookup = lookup or SystemLookup()
        self._resolver = Resolver(self._lookup)
        self._dialler = Dialler(self._resolver)
        self._policies = PolicyBuilder(self._resolver, self.metrics)
        self._build_filter = build_filter or self._policies
        self._closing_pools: list[Pool] = []
        self._gate = HandshakeGate(config.limits.handshakes)
        self._sessions: set[InnerSession] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._hooks = self._choose, self._count_handshake, self._forget_session  # bound once, not for each session
        self._door = StreamDoor(self)
        routes = self._build_routes(config, {}, {})
        self.exporter = Exporter(config.tracing, self._count_spans) if config.tracing else None
        tracer = Tracer(self.exporter.emit, config.tracing.sample_ratio) if self.exporter and config.tracing else None
        table = RouteTable(routes, config.tunnel_domain)
        self.forwarder = Forwarder(table, self.metrics, config.limits.requests, tracer)
        self.routes = routes
        self.use_certificate(certificate)

    @property
    def ready(self) -> bool:
        """Whether new work is welcome. The state of upstreams plays no part: one dead server must not stop all."""
        return self.listening and not self.forwarder.draining and days_left(self.certificate) > 0

    @property
    def websockets(self) -> int:
        """WebSockets open now."""
        return len(self._sessions)

    # The door.

    def check_capacity(self) -> None:
        """Raises `Draining` or `Overloaded` when no further WebSocket is welcome."""
        if self.forwarder.draining:
            raise Draining
        if len(self._sessions) >= self.config.limits.websockets:
            raise Overloaded

    def upgrade_headers(self, key: str | None, offered: list[str]) -> tuple[Header, ...]:
        """The header lines that accept an upgrade."""
        wanted = self.config.websocket.subprotocols
        return upgrade_answer(key, next((name for name in offered if name in wanted), None))

    def accept_stream(self) -> WebSocketServer:
        """The protocol for one tunnel stream, after its upgrade."""
        session = InnerSession(self.certificate.context, self._gate, *self._hooks)
        self._sessions.add(session)
        self._all_gone.clear()
        self.metrics.websockets.set(len(self._sessions))
        return session.websocket

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        """Take a stream from a connector in this process."""
        return self._door.handle_stream(stream)

    def _choose(self, alpn: str, sni: str | None) -> Inbound:
        idle, limits = self.config.limits.idle_timeout.total_seconds(), self.config.limits
        if alpn == "h2":
            return HTTP2Inbound(self.forwarder, idle, limits.streams, sni)
        return HTTP1Inbound(self.forwarder, idle, sni)

    def _count_handshake(self, result: str) -> None:
        self.metrics.handshakes.labels(result).inc()

    def _forget_session(self, session: InnerSession) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._all_gone.set()
        self.metrics.websockets.set(len(self._sessions))

    def _count_spans(self, result: str, count: int) -> None:
        self.metrics.spans.labels(result).inc(count)

    # Changes while running.

    def use_certificate(self, certificate: Certificate) -> None:
        """Show this one from the next handshake on."""
        self.certificate = certificate
        self.metrics.not_after.set(certificate.not_after.timestamp())

    @property
    def files(self) -> list[Path]:
        """The files that routes are made from, each once."""
        config = self.config
        return list({file: None for route in config.routes.values() for file in files_of(config, route)})

    def use_config(self, config: ProxyConfig) -> bool:
        """Take up routes, upstream rules and limits, and what is in the files they name; whether anything is different.

        Raises `ConfigInvalid`, and then nothing has changed.
        """
        previous = self.routes
        kept = {
            name: route
            for name, route in previous.items()
            if name in config.routes
            and config.routes[name] == route.config
            and (config.upstream, config.limits, config.rewrite_origins)
            == (self.config.upstream, self.config.limits, self.config.rewrite_origins)
            and digest(files_of(config, route.config)) == route.digest
        }
        changed = config != self.config or len(kept) < len(previous)
        routes = self._build_routes(config, previous, kept)
        self.config, self.routes = config, routes
        self.forwarder.table = RouteTable(routes, config.tunnel_domain)
        self.forwarder.max_requests = config.limits.requests
        for name, route in previous.items():
            successor = routes.get(name)
            if successor is None or successor.pool is not route.pool:
                self._close_pool(route.pool)
                if successor is None or route.config.stdio:  # a program runs for as long as a stream is open
                    self.forwarder.retire(route.pool, config.shutdown_timeout.total_seconds())
        _log_changes(previous, routes)
        return changed

    def _build_routes(
        self, config: ProxyConfig, previous: dict[str, Route], kept: dict[str, Route]
    ) -> dict[str, Route]:
        return {
            name: kept.get(name) or build_route(config, name, self._dialler, self._build_filter, previous.get(name))
            for name in config.routes
        }

    def _close_pool(self, pool: Pool) -> None:
        pool.close()
        pools = [*self._closing_pools, pool]
        self._closing_pools = [p for p in pools if p.in_flight or (p.ending is not None and not p.ending.done())]

    # The end.

    async def drain(self, timeout: float) -> bool:
        """Take nothing new, let what is going on finish for up to `timeout` seconds; whether all of it did."""
        self.forwarder.draining = True
        log.info("draining", in_flight=self.forwarder.in_flight, websockets=len(self._sessions))
        for session in list(self._sessions):
            session.drain()
        self.forwarder.end_streams()
        try:
            async with asyncio.timeout(timeout):
                await self.forwarder.wait_idle()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Abort what is left and let everything go."""
        self.forwarder.draining = True
        await self.forwarder.close()
        for session in list(self._sessions):
            session.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._all_gone.wait()
        for route in self.routes.values():
            self._close_pool(route.pool)
        for pool in self._closing_pools:
            await pool.wait_closed()
        if self.exporter is not None:
            await self.exporter.close()
        await self._policies.close()
        await self._resolver.close()
        if isinstance(self._lookup, SystemLookup):
            self._lookup.close()


def _log_changes(previous: dict[str, Route], current: dict[str, Route]) -> None:
    for name in sorted(previous.keys() | current.keys()):
        if name not in current:
            log.info("route removed", route=name)
        elif name not in previous:
            log.info("route added", route=name, upstream=str(current[name].destination.url))
        elif previous[name] is not current[name]:
            log.info("route changed", route=name, upstream=str(current[name].destination.url))
