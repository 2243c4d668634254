"""Client, edge, connector and proxy as they are in production, with the customer's two parts in either arrangement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import yaml

from qanat.client import open_tunnel
from qanat.client.dial import dial_transport
from qanat.client.forward import Forward, serve_forward
from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve as serve_connector
from qanat.pki.material import load_certificates
from qanat.proxy.config import ProxyConfig, parse_config
from qanat.proxy.document import Document
from qanat.proxy.server import serve as serve_proxy
from tests.support.edge import CLIENT_NAME, Tunnel, make_tunnel
from tests.support.path import PathParts, edge_running, write_files
from tests.support.pki import throwaway_ca
from tests.support.planted import plant
from tests.support.proxy import WAIT
from tests.support.proxy_bridge import Bridge, local_port

Arrangement = Literal["joined", "apart"]
"""Connector and proxy in one process, with streams handed over in memory; or with a WebSocket between them."""


@dataclass
class WholeTunnel:
    """A tunnel, and how its callers come in."""

    parts: PathParts
    tunnel: Tunnel
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def url(self, route: str, path: str = "/mcp") -> str:
        return f"https://{route}.{self.tunnel.record.domain}{path}?q={plant('query')}"

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """The client library's HTTP client."""
        files = self.parts.files
        host, port = self.parts.server.client_address
        return open_tunnel(
            f"{host}:{port}",
            certificate=files.path(CLIENT_NAME),
            key=files.path(f"{CLIENT_NAME}-key"),
            ca=self.ca,
            edge_ca=files.path("client-listener-ca"),
            headers={"Authorization": f"Bearer {plant('token')}", "Cookie": f"s={plant('cookie')}"},
            **options,
        )

    def forward(self, route: str) -> AbstractAsyncContextManager[Forward]:
        """What `qanat forward` opens: a loopback port for programs that know nothing of tunnels."""
        host = f"{route}.{self.tunnel.record.domain}"
        return serve_forward(self.parts.edge, host, load_certificates(self.ca.read_bytes()))

    def plain_port(self, route: str) -> AbstractAsyncContextManager[Bridge]:
        """A loopback port for plain HTTP of which not a byte is looked at or changed."""
        host = f"{route}.{self.tunnel.record.domain}"
        anchors = load_certificates(self.ca.read_bytes())
        return local_port(lambda: dial_transport(self.parts.edge, host, anchors, WAIT, asyncio.Protocol()))


@asynccontextmanager
async def whole_tunnel(
    folder: Path, routes: Mapping[str, Any], arrangement: Arrangement, **changes: Any
) -> AsyncIterator[WholeTunnel]:
    """A tunnel in service; `changes` go into the proxy's file."""
    async with unserved_tunnel(folder) as whole:
        place, tunnel = whole.folder, whole.tunnel
        proxy = _proxy_config(place, tunnel.record.domain, routes, changes)
        async with serve_proxy(proxy, listen=arrangement == "apart") as running:
            config = _connector_config(whole.parts, tunnel, running.address)
            async with serve_connector(config, None if running.address else running.proxy) as connector:
                await connector.wait_ready()
                yield whole


@asynccontextmanager
async def unserved_tunnel(folder: Path) -> AsyncIterator[WholeTunnel]:
    """A tunnel, an edge that knows it, and what the customer's parts need to serve it."""
    async with edge_running(folder, ["org_a"]) as parts:
        ca = throwaway_ca()
        tunnel = make_tunnel("a1b2c3d4", "org_a", certificates=(ca.certificate_pem.decode(),))
        parts.directory.add(tunnel)
        place = folder / "customer"
        write_files(place, ca, tunnel.record.domain)
        yield WholeTunnel(parts, tunnel, place)


def _proxy_config(folder: Path, domain: str, routes: Mapping[str, Any], changes: Mapping[str, Any]) -> ProxyConfig:
    data = {
        "listen_addr": "127.0.0.1:0",
        "tunnel_domain": domain,
        "tls": {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")},
        "routes": dict(routes),
        "upstream": {"allowed_ips": ["127.0.0.0/8"]},
        "shutdown_timeout": "1s",
        **changes,
    }
    return parse_config(Document(yaml.safe_dump(data).encode(), "config.yaml"))


def _connector_config(parts: PathParts, tunnel: Tunnel, proxy: tuple[str, int] | None) -> ConnectorConfig:
    host, port = parts.server.connector_address
    return ConnectorConfig.model_validate(
        {
            "token": tunnel.token.encode(),
            "edge": (f"{host}:{port}",),
            "cacert": parts.files.path("connector-listener-ca"),
            "protocol": "http2",
            "grace_period": "1s",
            "ha_connections": 1,
            **({"url": f"http://{proxy[0]}:{proxy[1]}"} if proxy else {}),
        }
    )
