"""The connector listener: TCP and UDP on one port, quiet towards probes."""

from __future__ import annotations

import asyncio

from qanat.edge import contexts
from qanat.edge.config import EdgeConfig, parse_listen
from qanat.edge.door import Door, Doors
from qanat.edge.metrics import Metrics
from qanat.net.tls import HandshakeGate, TLSServer
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.tunnel.connection import Registrar
from qanat.tunnel.http2 import EdgeHTTP2
from qanat.tunnel.quic_udp import QUICListener

PROBE_NAME = "probe.cftunnel.com"
PROBE_SECONDS = 10.0
BACKLOG = 1024
WATCH_EVERY = 10.0


class Quiet(Receiver):
    """Says nothing to a probe, and closes if the probe does not."""

    def connection_made(self, transport: Transport) -> None:
        self._timer = asyncio.get_running_loop().call_later(PROBE_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()


class Greeter(Receiver):
    """Waits for the handshake, then lets the name asked for decide: a probe, or a connection to be registered."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar

    def connection_made(self, transport: Transport) -> None:
        name = contexts.server_name(transport.get_extra_info("ssl_object"))
        above: Receiver = Quiet() if name == PROBE_NAME else EdgeHTTP2(self._registrar)
        transport.set_protocol(above)
        above.connection_made(transport)


class ConnectorListener:
    """Accepts connectors over HTTP/2, and over QUIC when it is served."""

    def __init__(self, config: EdgeConfig, registrar: Registrar, metrics: Metrics) -> None:
        self._config, self._registrar = config, registrar
        limits = config.limits
        self._doors = Doors("connectors", limits.connector_connections, metrics, self._count_quic)
        self._gate = HandshakeGate(limits.handshakes, limits.waiting_handshakes)
        self._context = contexts.for_connectors(config.connectors.tls)
        self._server: asyncio.Server | None = None
        self._quic: list[QUICListener] = []

    async def start(self, reuse_port: bool = False) -> tuple[str, int]:
        """Listen on TCP, and on UDP at the same addresses; returns the first."""
        host, port = parse_listen(self._config.connectors.listen_addr)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: as_protocol(self._door()), host or None, port, reuse_port=reuse_port or None, backlog=BACKLOG
        )
        addresses: list[tuple[str, int]] = [socket.getsockname()[:2] for socket in self._server.sockets]
        if self._config.connectors.quic:
            for address in addresses:
                self._quic.append(await self._listen_quic(address, reuse_port))
        return addresses[0]

    async def _listen_quic(self, address: tuple[str, int], reuse_port: bool) -> QUICListener:
        certificate, key = self._read_pair()
        _, listener = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: QUICListener(self._registrar, certificate, key, self._has_room),
            local_addr=address,
            reuse_port=reuse_port or None,
        )
        return listener

    def _count_quic(self) -> int:
        return sum(len(listener.connections) for listener in self._quic)

    def _has_room(self, address: str) -> bool:
        """Whether a QUIC connection may begin, which costs a hundred kilobytes and no proof of who asks."""
        limits = self._config.limits
        shaking = sum(len(listener.shaking) for listener in self._quic)
        if self._doors.full:
            self._doors.ignore("too_many_connections", address)
        elif shaking >= limits.handshakes + limits.waiting_handshakes:
            self._doors.ignore("too_many_handshakes", address)
        else:
            return True
        return False

    def _read_pair(self) -> tuple[bytes, bytes]:
        files = self._config.connectors.tls
        return files.certificate_file.read_bytes(), files.key_file.read_bytes()

    async def watch(self) -> None:
        """Show renewed certificates over QUIC too, for ever."""
        shown = self._context.current()
        while True:
            await asyncio.sleep(WATCH_EVERY)
            context = self._context.current()
            if context is not shown:
                shown = context
                for listener in self._quic:
                    listener.use_certificate(*self._read_pair())

    def _door(self) -> Door:
        return Door(self._doors, self._accept)

    def _accept(self, address: str, _: str) -> Receiver:
        def failed(error: Exception) -> None:
            self._doors.handshake_failed(error, address)

        return TLSServer(
            Greeter(self._registrar),
            self._context.current(),
            on_failure=failed,
            gate=self._gate,
            handshake_timeout=self._config.limits.handshake_timeout.total_seconds(),
        )

    def stop_listening(self) -> None:
        """Accept nobody else."""
        if self._server is not None:
            self._server.close()
        for listener in self._quic:
            listener.accepting = False

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self.stop_listening()
        for listener in self._quic:
            await listener.close()
        self._doors.abort_all()
        await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
