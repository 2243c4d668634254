"""Every client session of a node: what they share, how many there are, and how they end."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any
from uuid import UUID

from qanat.edge.admission import ClientIdentity, identify
from qanat.edge.cache import CachedDirectory
from qanat.edge.config import ClientMapping, Limits
from qanat.edge.errors import EdgeDraining, EdgeRefused, TooManyStreams
from qanat.edge.events import EventQueue
from qanat.edge.frames import POLICY, TRY_AGAIN
from qanat.edge.metrics import Metrics
from qanat.edge.request import UpgradeRequest
from qanat.edge.router import Router
from qanat.edge.session import ClientSession, Guest
from qanat.edge.traffic import Live, Traffic
from qanat.ids import TunnelID
from qanat.logger import get_logger
from qanat.net.transport import Transport
from qanat.tunnel.connection import EdgeConnection

SWEEPS_PER_IDLE_TIME = 4
MAX_IDENTITIES = 1024

_log = get_logger("qanat.edge")


class Sessions:
    """The sessions of one node, clients' and other nodes'."""

    def __init__(
        self,
        directory: CachedDirectory,
        router: Router,
        limits: Limits,
        metrics: Metrics,
        events: EventQueue,
        mappings: Callable[[], tuple[ClientMapping, ...]],
    ) -> None:
        self.directory, self.router, self.limits = directory, router, limits
        self._metrics, self._events, self._mappings = metrics, events, mappings
        self._identified_by: tuple[ClientMapping, ...] = ()
        self._identities: dict[str, ClientIdentity] = {}
        """Of certificates seen since the mappings changed: many sessions are one client's."""
        self._open: dict[ClientSession, int] = {}
        """Each session, and how many bytes it had moved when last looked at."""
        self._of_client: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._used: set[TunnelID] = set()
        self._traffic = Traffic()
        self.draining = False
        self.on_opened: Callable[[ClientSession], None] = lambda _: None
        """Hears of each stream that was accepted, before any of its bytes."""
        self.empty = asyncio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def guest(self, transport: Transport, address: str, is_node: bool) -> Guest:
        """Who is at the other end of a finished handshake."""
        if is_node:
            return Guest(address, None)
        mappings, fingerprint = self._mappings(), fingerprint_of(transport)
        if mappings is not self._identified_by or len(self._identities) >= MAX_IDENTITIES:
            self._identified_by, self._identities = mappings, {}
        identity = self._identities.get(fingerprint)
        if identity is None:
            certificate = transport.get_extra_info("ssl_object").getpeercert()
            identity = self._identities[fingerprint] = identify(certificate, fingerprint, mappings)
        return Guest(address, identity)

    def add(self, session: ClientSession) -> None:
        """A handshake is done."""
        self._open[session] = 0
        self._of_client[session.guest.name] += 1
        self._metrics.clients.inc()
        self.empty.clear()

    def remove(self, session: ClientSession) -> None:
        """A session is over."""
        moved = self._open.pop(session, None)
        if moved is None:
            return
        self._metrics.clients.dec()
        self._of_client[session.guest.name] -= 1
        if not self._of_client[session.guest.name]:
            del self._of_client[session.guest.name]
        if session.stream is not None and session.client_end is not None:
            self._metrics.bytes.labels("to_client").inc(session.stream.bytes_received)
            self._metrics.bytes.labels("to_tunnel").inc(session.client_end.bytes_received)
            self._metrics.streams.labels(session.stream.via).dec()
            if session.tunnel is not None and session.guest.identity is not None:
                self._traffic.ended(session.tunnel.id, session.client_end.bytes_received, session.stream.bytes_received)
        if not self._open:
            self.empty.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a session's opening; it is cancelled when the node closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def check_admission(self, guest: Guest, request: UpgradeRequest) -> None:
        """Raises `EdgeRefused` for what needs no look at the tunnel."""
        if self.draining:
            raise EdgeDraining
        if guest.identity is not None:
            if request.stripped:
                self._metrics.stripped.inc(request.stripped)
                _log.warn("internal headers stripped", client=guest.name, address=guest.address, count=request.stripped)
            if self._of_client[guest.name] > self.limits.connections_per_client:
                raise TooManyStreams

    def opened(self, session: ClientSession, seconds: float) -> None:
        """A stream was accepted."""
        assert session.stream is not None
        via = session.stream.via
        self._metrics.opened.labels(via).inc()
        self._metrics.streams.labels(via).inc()
        self._metrics.open_seconds.observe(seconds)
        tunnel = session.tunnel
        if tunnel is not None and session.guest.identity is not None:
            self._traffic.opened(tunnel.id)
            if tunnel.id not in self._used:
                self._used.add(tunnel.id)
                told = {"client": session.guest.name, "address": session.guest.address}
                self._events.emit("tunnel_first_use", tunnel.id, **told)
        self.on_opened(session)

    def refused(self, guest: Guest, refusal: EdgeRefused, request: UpgradeRequest | None) -> None:
        """Log and count a refusal; the host is named only to those who may know whether it exists."""
        self._metrics.refused.labels(refusal.code).inc()
        if guest.identity is None:
            return  # a node that relays: it tells its client, and the operators
        host = None if request is None else request.host
        self._events.emit(
            "client_refused", None, client=guest.name, address=guest.address, code=refusal.code, host=host
        )

    def tunnels(self) -> set[UUID]:
        """The tunnels that sessions are about."""
        return {session.tunnel.uuid for session in self._open if session.tunnel is not None}

    async def report_traffic(self, every: float) -> None:
        """Tell operators what tunnels carry, every so many seconds, for ever."""
        while True:
            await asyncio.sleep(every)
            if not self._events.crowded:  # what is not told now is told later: the sums only grow
                self.tell_traffic()

    def tell_traffic(self) -> None:
        """Tell what is new of every tunnel."""
        for tunnel, moved in self._traffic.take(self._live()).items():
            self._events.emit("traffic", tunnel, **asdict(moved))

    def _live(self) -> Live:
        for session in self._open:
            if session.stream is None or session.client_end is None:
                continue
            if session.tunnel is not None and session.guest.identity is not None:
                yield session.tunnel.id, session.client_end.bytes_received, session.stream.bytes_received

    def of_tunnel_archived(self, tunnel: TunnelID) -> None:
        """Cut every session of a tunnel that is gone."""
        for session in [each for each in self._open if each.tunnel is not None and each.tunnel.id == tunnel]:
            session.cut(POLICY, "tunnel_archived at edge")

    async def sweep(self) -> None:
        """Close what has been idle for too long, for ever."""
        period = self.limits.idle_timeout.total_seconds() / SWEEPS_PER_IDLE_TIME
        quiet: Counter[ClientSession] = Counter()
        while True:
            await asyncio.sleep(period)
            for session, before in list(self._open.items()):
                moved = session.bytes_moved
                self._open[session] = moved
                quiet[session] = quiet[session] + 1 if moved == before else 0
                if quiet[session] >= SWEEPS_PER_IDLE_TIME:
                    _log.info(
                        "idle stream closed",
                        client=session.guest.name,
                        tunnel=None if session.tunnel is None else session.tunnel.id,
                    )
                    session.cut(TRY_AGAIN, "idle at edge")
            for session in [each for each in quiet if each not in self._open]:
                del quiet[session]

    def drain(self) -> None:
        """Refuse new requests, and ask every client to finish and dial again."""
        self.draining = True
        for session in list(self._open):
            if session.stream is not None:
                session.stream.announce_going_away()

    def move(self, connection: EdgeConnection) -> None:
        """Ask the clients on one connection to dial again."""
        for session in list(self._open):
            if session.stream is not None and session.stream.connection is connection:
                session.stream.announce_going_away()

    async def close(self) -> None:
        """End every session now."""
        for session in list(self._open):
            session.cut(TRY_AGAIN, "edge_draining at edge")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def fingerprint_of(transport: Transport) -> str:
    """SHA-256 of the peer's certificate, 64 hex digits."""
    return hashlib.sha256(transport.get_extra_info("peercert_der") or b"").hexdigest()
