"""An `httpx2` transport that speaks through a tunnel; HTTP itself is `httpcore2`'s.

One WebSocket and one inner TLS session carry many requests, one after the other; as many sessions are open as requests
run at once, up to a limit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
from cryptography import x509

from qanat.client.dial import Edge, Told, dial, inner_context, outer_context, unheard
from qanat.client.errors import TunnelFailed
from qanat.pki.material import load_certificates

Anchors = Callable[[str], Awaitable[Sequence[x509.Certificate]]]
"""The CA certificates registered on the tunnel of a host; none: refuse."""
CONNECT_TIMEOUT = 10.0


class TunnelBackend(httpcore2.AsyncNetworkBackend):
    """Connects by dialling through the edge."""

    def __init__(self, edge: Edge, anchors: Anchors, leave: Callable[[], None], told: Told = unheard) -> None:
        self._edge, self._anchors, self._leave, self._told = edge, anchors, leave, told

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if port != 443:
            raise TunnelFailed("unknown_host", "client", "servers behind a tunnel answer on port 443 only")
        stream = await dial(self._edge, host, await self._anchors(host), timeout or CONNECT_TIMEOUT, self._told)
        stream.on_going_away(self._leave)
        return stream


class TunnelTransport(httpx2.AsyncHTTPTransport):
    """Give it to `httpx2.AsyncClient(transport=…)`; every request then goes through the edge.

    `told` hears of the stretches of each new session.
    """

    def __init__(
        self,
        edge: Edge,
        anchors: Anchors,
        *,
        max_connections: int = 256,
        keepalive_expiry: float = 60.0,
        told: Told = unheard,
    ) -> None:
        unused = inner_context()  # the backend brings TLS of its own; this spares loading the system's roots
        super().__init__(verify=unused, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=unused,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=keepalive_expiry,
            network_backend=TunnelBackend(edge, anchors, self._leave, told),
        )
        self._leaving: set[asyncio.Task[None]] = set()

    def _leave(self) -> None:
        """An edge goes away: the pool leaves busy sessions after their request, and we leave idle ones now."""
        task = asyncio.get_running_loop().create_task(self._close_idle())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _close_idle(self) -> None:
        for connection in self._pool.connections:
            if connection.is_idle() and connection.has_expired():
                await connection.aclose()

    async def aclose(self) -> None:
        """Close every session."""
        for task in list(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await super().aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def open_tunnel(
    edge: str,
    *,
    certificate: os.PathLike[str] | str,
    key: os.PathLike[str] | str,
    ca: os.PathLike[str] | str,
    edge_ca: os.PathLike[str] | str | None = None,
    **client_options: Any,
) -> httpx2.AsyncClient:
    """An HTTP client whose requests travel through tunnels.

    `edge` is `host` or `host:port` of the edge's client listener; `certificate` and `key` are this client's identity
    there; `ca` is the tunnel's CA certificate (PEM, several allowed), the only thing trusted to vouch for its servers.
    """
    host, _, port = edge.rpartition(":") if edge.rpartition(":")[2].isdigit() else (edge, "", "443")
    trusted = load_certificates(Path(ca).read_bytes())

    async def anchors(_: str) -> Sequence[x509.Certificate]:
        return trusted

    access = Edge(host.strip("[]"), int(port), outer_context(certificate, key, edge_ca))
    client_options.setdefault("timeout", httpx2.Timeout(30.0, read=300.0))
    return httpx2.AsyncClient(transport=TunnelTransport(access, anchors), trust_env=False, **client_options)
