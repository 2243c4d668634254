"""A small edge on loopback sockets: every door a connector may knock at, and a registrar that remembers.

Opens its doors on `open`, closes them rudely (`kill`) or politely (`close`), and can open again on the same ports.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from qanat.ids import TunnelUUID
from qanat.net.tls import TLSServer
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.pki.issue import CONNECTOR_LISTENER_NAMES, issue_listener
from qanat.pki.material import Pair
from qanat.tunnel.connection import EdgeConnection, Registered, RegistrationRefused, RegistrationRequest
from qanat.tunnel.http2 import EdgeHTTP2
from qanat.tunnel.quic_udp import QUICListener, listen_quic
from qanat.tunnel.wss import accept_wss
from qanat.wire.token import TunnelToken
from tests.support.pki import now, serial, throwaway_ca
from tests.support.ports import free_port

TIMEOUT = 30.0
TUNNEL = TunnelUUID(UUID("11111111-2222-4333-8444-555555555555"))
SECRET = b"0123456789abcdef0123456789abcdef"


def tunnel_token(secret: bytes = SECRET) -> str:
    """A token for the one tunnel that exists."""
    return TunnelToken("account", TUNNEL, secret).encode()


class Guests:
    """The registrar: who is connected, by index; refuses wrong secrets, and everybody when told to."""

    def __init__(self) -> None:
        self.connections: dict[int, EdgeConnection] = {}
        self.requests: list[RegistrationRequest] = []
        self.refused = 0
        self.refusal: str | None = None
        self.secret = SECRET
        self.told: list[str] = []
        self._changed = asyncio.Event()

    async def register(self, request: RegistrationRequest) -> Registered:
        self.requests.append(request)
        if self.refusal is not None or request.secret != self.secret:
            self.refused += 1
            self._note("refused")
            raise RegistrationRefused(self.refusal or "Unauthorized: Invalid tunnel secret")
        return Registered(uuid4(), "loopback", True)

    def connection_ready(self, connection: EdgeConnection) -> None:
        old = self.connections.get(connection.request.conn_index)
        self.connections[connection.request.conn_index] = connection
        if old is not None:
            old.close()
        self._note("ready")

    def connection_draining(self, connection: EdgeConnection) -> None:
        self._note("draining")

    def connection_lost(self, connection: EdgeConnection, exc: Exception | None) -> None:
        if self.connections.get(connection.request.conn_index) is connection:
            del self.connections[connection.request.conn_index]
        self._note("lost")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, count: int) -> list[EdgeConnection]:
        """All connections, once there are exactly `count`."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.connections) != count:
                await self._changed.wait()
        return [self.connections[index] for index in sorted(self.connections)]

    async def wait_refused(self, count: int) -> None:
        """Return once `count` registrations have been refused."""
        async with asyncio.timeout(TIMEOUT):
            while self.refused < count:
                await self._changed.wait()


@dataclass
class LoopbackEdge:
    """The doors. `port` is both TCP (HTTP/2) and UDP (QUIC); `wss_port` is TCP."""

    directory: Path
    ca: Pair = field(default_factory=lambda: throwaway_ca("loopback edge CA"))
    guests: Guests = field(default_factory=Guests)
    port: int = 0
    wss_port: int = 0
    accepted: int = 0
    """TCP connections and QUIC datagrams' connections that arrived, of whatever outcome."""

    def __post_init__(self) -> None:
        names = (*CONNECTOR_LISTENER_NAMES, "localhost")
        self._pair = issue_listener(self.ca, names, now(), serial())
        self.cacert = self.directory / "edge-ca.pem"
        self.cacert.write_bytes(self.ca.certificate_pem)
        chain = self.directory / "edge.pem"
        chain.write_bytes(self._pair.certificate_pem + self._pair.key_pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain)
        self._servers: list[asyncio.Server] = []
        self._transports: set[Transport] = set()
        self._gone = asyncio.Event()
        self.quic: QUICListener | None = None

    @property
    def address(self) -> str:
        """For `--edge`."""
        return f"127.0.0.1:{self.port}"

    @property
    def wss_url(self) -> str:
        """For `--edge-wss`."""
        return f"wss://localhost:{self.wss_port}"

    async def open(self, http2: bool = True, quic: bool = True, wss: bool = True) -> None:
        """Open some doors; again on the ports of the first time."""
        loop = asyncio.get_running_loop()
        self.port = self.port or free_port()
        if quic:
            certificate, key = self._pair.certificate_pem, self._pair.key_pem
            self.quic = await listen_quic("127.0.0.1", self.port, self.guests, certificate, key)
        if http2:
            server = await loop.create_server(
                lambda: as_protocol(self._tls(EdgeHTTP2(self.guests))), "127.0.0.1", self.port
            )
            self._servers.append(server)
        if wss:
            self.wss_port = self.wss_port or free_port()
            server = await loop.create_server(
                lambda: as_protocol(self._tls(accept_wss(self.guests))), "127.0.0.1", self.wss_port
            )
            self._servers.append(server)

    def _tls(self, above: Receiver) -> TLSServer:
        edge = self

        class Counted(TLSServer):
            def connection_made(self, transport: Transport) -> None:
                edge.accepted += 1
                edge._transports.add(transport)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                edge._transports.discard(self.below)
                edge._gone.set()
                super().connection_lost(exc)

        return Counted(above, self._context, on_failure=lambda error: None)

    async def close(self) -> None:
        """Close the doors, and every connection in an orderly way."""
        for server in self._servers:
            server.close()
        for connection in list(self.guests.connections.values()):
            connection.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    await connection.wait_closed()
        await self._end()

    async def kill(self) -> None:
        """Vanish as a killed process does: sockets reset, not a word over UDP."""
        for server in self._servers:
            server.close()
        if self.quic is not None:
            self.quic.transport.abort()
            for quic in list(self.quic.connections):
                quic.link._lose(None)
            self.quic = None
        await self._end()

    async def _end(self) -> None:
        for transport in list(self._transports):
            transport.abort()
        if self.quic is not None:
            await self.quic.close()
            self.quic = None
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        async with asyncio.timeout(TIMEOUT):
            await self._none_left()

    async def _none_left(self) -> None:
        while self._transports:
            self._gone.clear()
            await self._gone.wait()


@asynccontextmanager
async def loopback_edge(directory: Path, **doors: bool) -> AsyncIterator[LoopbackEdge]:
    """An open edge."""
    edge = LoopbackEdge(directory)
    await edge.open(**doors)
    try:
        yield edge
    finally:
        await edge.close()
