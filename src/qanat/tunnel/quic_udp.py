"""UDP under the tunnel's QUIC: the edge's listener, which tells connections apart, and the connector's dial."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from qh3._hazmat import pull_quic_header
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import NetworkAddress
from qh3.quic.packet import QuicPacketType, QuicProtocolVersion, encode_quic_version_negotiation

from qanat.logger import get_logger
from qanat.tunnel.connection import Registrar, StreamHandler
from qanat.tunnel.quic import QUICConnectorConnection, QUICEdgeConnection
from qanat.tunnel.quic_engine import Engine, client_configuration, server_configuration

SERVER_NAME = "quic.cftunnel.com"
MIN_INITIAL = 1200
"""Bytes: a shorter first datagram is no QUIC client's (RFC 9000 14.1)."""
CONNECTION_ID_SIZE = 8
HANDSHAKE_TIMEOUT = 5.0
SOCKET_BUFFER = 4 * 1024 * 1024
"""Bytes asked of the kernel, which may give less."""
CONTROL_STREAMS = 100
"""Streams a connector may open at first: it needs one."""
REQUEST_STREAMS = 2_048
"""Streams an edge may open at first, or in one burst."""

_log = get_logger("qanat.tunnel")


def _enlarge_buffers(transport: asyncio.DatagramTransport) -> None:
    """A burst larger than the kernel's default buffer would be lost, and sent again."""
    udp = transport.get_extra_info("socket")
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)


class QUICListener(asyncio.DatagramProtocol):
    """Meets connectors on one UDP socket. `address` is the bound host and port.

    `has_room` is asked, with the peer's address, before anything is kept of a connection that begins.
    """

    transport: asyncio.DatagramTransport

    def __init__(
        self,
        registrar: Registrar,
        certificate: bytes,
        key: bytes,
        has_room: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._registrar, self._has_room = registrar, has_room
        self._configuration = server_configuration(certificate, key)
        self._by_id: dict[bytes, QUICEdgeConnection] = {}
        self.connections: set[QUICEdgeConnection] = set()
        self.shaking: set[QUICEdgeConnection] = set()
        """Those whose handshake is not done."""
        self.accepting = True

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        name = self.transport.get_extra_info("sockname")
        return str(name[0]), int(name[1])

    def use_certificate(self, certificate: bytes, key: bytes) -> None:
        """Show another certificate (PEM) to connections from now on. Raises `ValueError`."""
        self._configuration = server_configuration(certificate, key)

    async def close(self) -> None:
        """Close every connection and the socket."""
        self.accepting = False
        connections = list(self.connections)
        for connection in connections:
            connection.link.close()
        for connection in connections:
            await connection.wait_closed()
        self.transport.close()

    # From the socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        _enlarge_buffers(self.transport)

    def datagram_received(self, data: bytes, addr: NetworkAddress) -> None:
        try:
            version, kind, _, destination, source, *_ = pull_quic_header(data, 0, CONNECTION_ID_SIZE)
        except ValueError:
            return
        connection = self._by_id.get(destination)
        if connection is None:
            if len(data) < MIN_INITIAL or not self.accepting:
                return
            if version not in (None, QuicProtocolVersion.VERSION_1):
                self._negotiate_version(destination, source, addr)
                return
            if kind != QuicPacketType.INITIAL or not self._has_room(str(addr[0])):
                return
            connection = self._accept(destination, addr)
        connection.link.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        _log.debug("UDP error", error=str(exc))

    def _negotiate_version(self, destination: bytes, source: bytes, address: NetworkAddress) -> None:
        versions = [int(QuicProtocolVersion.VERSION_1)]
        self.transport.sendto(
            encode_quic_version_negotiation(
                source_cid=destination, destination_cid=source, supported_versions=versions
            ),
            address,
        )

    def _accept(self, destination: bytes, address: NetworkAddress) -> QUICEdgeConnection:
        engine = Engine(self._configuration, CONTROL_STREAMS, destination)
        name = f"{address[0]}:{address[1]}"
        connection = QUICEdgeConnection(engine, self._registrar, self._send, name)
        ids = {destination, engine.host_cid}

        def note(connection_id: bytes, issued: bool) -> None:
            if issued:
                ids.add(connection_id)
                self._by_id[connection_id] = connection
            else:
                ids.discard(connection_id)
                self._by_id.pop(connection_id, None)

        def forget() -> None:
            self.connections.discard(connection)
            self.shaking.discard(connection)
            for connection_id in ids:
                self._by_id.pop(connection_id, None)

        for connection_id in ids:
            self._by_id[connection_id] = connection
        self.connections.add(connection)
        self.shaking.add(connection)
        connection.link.on_ids, connection.on_lost = note, forget
        connection.on_handshake = lambda: self.shaking.discard(connection)
        return connection

    def _send(self, data: bytes, address: NetworkAddress) -> None:
        self.transport.sendto(data, address)


async def listen_quic(host: str, port: int, registrar: Registrar, certificate: bytes, key: bytes) -> QUICListener:
    """Meet connectors on a UDP port; certificate chain and key are PEM. Raises `OSError`, `ValueError`."""
    loop = asyncio.get_running_loop()
    _, listener = await loop.create_datagram_endpoint(
        lambda: QUICListener(registrar, certificate, key), local_addr=(host, port)
    )
    return listener


class _Dialled(asyncio.DatagramProtocol):
    """The connector's UDP socket: one for each connection."""

    transport: asyncio.DatagramTransport

    def __init__(self, configuration: QuicConfiguration, address: NetworkAddress, handler: StreamHandler) -> None:
        self._address = address
        self._engine = Engine(configuration, REQUEST_STREAMS)
        self.connection = QUICConnectorConnection(self._engine, handler, self._send)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        _enlarge_buffers(self.transport)
        self.connection.on_lost = self.transport.close
        self._engine.connect(self._address, now=asyncio.get_running_loop().time())
        self.connection.link.transmit_soon()

    def datagram_received(self, data: bytes, addr: NetworkAddress) -> None:
        self.connection.link.datagram_received(data, self._address)

    def error_received(self, exc: Exception) -> None:
        if not self.connection.connected.done():  # nobody listens there, says the host
            self.connection.connected.set_exception(exc)

    def _send(self, data: bytes, address: NetworkAddress) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(data)


async def dial_quic(
    host: str,
    port: int,
    handler: StreamHandler,
    roots: bytes | None,
    *,
    server_name: str = SERVER_NAME,
    local_addr: tuple[str, int] | None = None,
    timeout: float = HANDSHAKE_TIMEOUT,
) -> QUICConnectorConnection:
    """A connection to an edge, ready to register. `roots` are PEM certificates in place of the system's.

    Raises `ConnectionLost` with the reason, `OSError`, or `TimeoutError`.
    """
    loop = asyncio.get_running_loop()
    configuration = client_configuration(server_name, roots)
    _, dialled = await loop.create_datagram_endpoint(
        lambda: _Dialled(configuration, (host, port), handler),
        remote_addr=(host, port),
        local_addr=local_addr,
    )
    try:
        async with asyncio.timeout(timeout):
            await dialled.connection.connected
    except TimeoutError:
        dialled.connection.close()
        raise TimeoutError("no answer over UDP") from None
    except BaseException:
        dialled.connection.close()
        raise
    return dialled.connection
