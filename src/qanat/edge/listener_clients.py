"""The client listener: address check, outer mTLS, then one WebSocket upgrade per connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qanat.edge import contexts
from qanat.edge.admission import is_allowed
from qanat.edge.config import EdgeConfig, parse_listen
from qanat.edge.door import Door, Doors
from qanat.edge.metrics import Metrics
from qanat.edge.session import ClientSession
from qanat.edge.sessions import Sessions
from qanat.net.tls import HandshakeGate, TLSServer
from qanat.net.transport import Receiver, Transport, as_protocol

WebSocketConnector = Callable[[str], Receiver]
"""Makes the protocol for a connector that comes by WebSocket, given its address."""


class _Unwelcome(Receiver):
    """Closes at once."""

    def connection_made(self, transport: Transport) -> None:
        transport.abort()


class ClientListener:
    """Accepts clients, and connectors that may only leave through this port."""

    def __init__(
        self,
        config: EdgeConfig,
        sessions: Sessions,
        metrics: Metrics,
        websocket_connector: WebSocketConnector | None = None,
    ) -> None:
        self._config, self._sessions = config, sessions
        limits = config.limits
        self._doors = Doors("clients", limits.client_connections, metrics)
        self._gate = HandshakeGate(limits.handshakes, limits.waiting_handshakes)
        self._context = contexts.for_clients(config.clients)
        self._connector_names = frozenset(config.connectors.wss_names if websocket_connector is not None else ())
        self._websocket_connector = websocket_connector
        self._connector_context = contexts.for_websocket_connectors(config.clients.tls)
        self._server: asyncio.Server | None = None

    async def start(self, reuse_port: bool = False) -> tuple[str, int]:
        """Listen; returns the bound address."""
        host, port = parse_listen(self._config.clients.listen_addr)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: as_protocol(self._door()), host or None, port, reuse_port=reuse_port or None, backlog=1024
        )
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

    def _door(self) -> Door:
        clients = self._config.clients
        return Door(
            self._doors,
            self._accept,
            allowed=None if self._connector_names else clients.allowed_addresses,
            balancers=None if clients.proxy_protocol is None else clients.proxy_protocol.trusted,
            read_name=bool(self._connector_names),
            timeout=self._config.limits.handshake_timeout.total_seconds(),
        )

    def _accept(self, address: str, server_name: str) -> Receiver:
        if server_name in self._connector_names and self._websocket_connector is not None:
            return self._tls(self._websocket_connector(address), self._connector_context, address)
        if self._connector_names and not is_allowed(address, self._config.clients.allowed_addresses):
            self._doors.cut("address_not_allowed", address)  # only now is it known to be no connector
            return _Unwelcome()
        return self._tls(ClientSession(self._sessions, address), self._context, address)

    def _tls(self, above: Receiver, context: contexts.FreshContext, address: str) -> TLSServer:
        def failed(error: Exception) -> None:
            self._doors.handshake_failed(error, address)

        return TLSServer(
            above,
            context.current(),
            on_failure=failed,
            gate=self._gate,
            handshake_timeout=self._config.limits.handshake_timeout.total_seconds(),
        )

    def stop_listening(self) -> None:
        """Accept nobody else."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self.stop_listening()
        self._doors.abort_all()
        await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
