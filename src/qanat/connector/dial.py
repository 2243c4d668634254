"""Dialling an edge: which roots to trust, and one function for each rung of the ladder."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

from qanat.connector.config import ConnectorConfig
from qanat.connector.proxies import proxy_for
from qanat.connector.spread import EdgeAddress
from qanat.errors import ConfigInvalid
from qanat.net.dial import start_tls
from qanat.net.transport import Receiver, as_protocol
from qanat.tunnel.connection import ConnectorConnection, StreamHandler
from qanat.tunnel.http2 import ConnectorHTTP2
from qanat.tunnel.wss import HTTPProxy, Way, dial_wss, parse_proxy

HTTP2_SERVER_NAME = "h2.cftunnel.com"
"""What an edge's certificate must be for, whatever its address: cloudflared asks for the same."""
DIAL_TIMEOUT = 15.0


class Dialler:
    """Opens connections as its configuration says. CA files are read again for each dial."""

    def __init__(self, config: ConnectorConfig) -> None:
        self._config = config
        self._local = (config.edge_bind_address, 0) if config.edge_bind_address else None

    async def dial(self, rung: str, address: EdgeAddress, handler: StreamHandler) -> ConnectorConnection:
        """A connection ready to register. Raises `OSError`, `TimeoutError` or `QanatError`."""
        if rung == "http2":
            return await self._dial_http2(address, handler)
        if rung == "quic":
            return await self._dial_quic(address, handler)
        return await self._dial_wss(address, handler)

    def check(self) -> None:
        """Raises `ConfigInvalid` when a CA file cannot be used, so that a mistake shows at start."""
        for path in (self._config.cacert, self._config.wss_cacert):
            if path is not None:
                client_context(path)

    async def _dial_http2(self, address: EdgeAddress, handler: StreamHandler) -> ConnectorConnection:
        connection = ConnectorHTTP2(handler)
        context = client_context(self._config.cacert)

        async def connect(protocol: Receiver) -> None:
            loop = asyncio.get_running_loop()
            await loop.create_connection(
                lambda: as_protocol(protocol), address.host, address.port, local_addr=self._local
            )

        await start_tls(connect, connection, context, HTTP2_SERVER_NAME, timeout=DIAL_TIMEOUT)
        return connection

    async def _dial_quic(self, address: EdgeAddress, handler: StreamHandler) -> ConnectorConnection:
        from qanat.tunnel.quic_udp import dial_quic  # qh3 is large, and often not needed

        roots = self._config.cacert.read_bytes() if self._config.cacert is not None else None
        return await dial_quic(address.host, address.port, handler, roots, local_addr=self._local)

    async def _dial_wss(self, address: EdgeAddress, handler: StreamHandler) -> ConnectorConnection:
        context = client_context(self._config.wss_cacert or self._config.cacert)
        proxy = self._proxy(address)
        way = Way(address.server_name, address.port, address.path, proxy, self._local)
        return await dial_wss(way, handler, context, timeout=DIAL_TIMEOUT)

    @staticmethod
    def _proxy(address: EdgeAddress) -> HTTPProxy | None:
        url = proxy_for(address.host, address.port, os.environ)
        try:
            return parse_proxy(url) if url is not None else None
        except ValueError as error:
            raise ConfigInvalid([f"HTTPS_PROXY: {error}"]) from error


def client_context(roots: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, verified against the system's roots or those in a PEM file. Raises `ConfigInvalid`."""
    try:
        context = ssl.create_default_context(cafile=str(roots) if roots is not None else None)
    except (OSError, ssl.SSLError) as error:
        reason = "no usable certificate" if isinstance(error, ssl.SSLError) else (error.strerror or str(error)).lower()
        raise ConfigInvalid([f"CA file {roots}: {reason}"]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
