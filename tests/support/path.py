"""The whole way to a private server with real parts: edge, connector connection, proxy, all in this process."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import yaml

from qanat.api.internal import TunnelRecord
from qanat.client import Edge, outer_context
from qanat.edge import operator_pki
from qanat.edge.server import Edge as EdgeServer
from qanat.ids import OrganizationID, WorkspaceID
from qanat.pki.material import Pair
from qanat.proxy.config import parse_config
from qanat.proxy.document import Document
from qanat.proxy.server import serve as serve_proxy
from tests.support.edge import CLIENT_NAME, DictDirectory, OperatorFiles, Tunnel, connect, make_tunnel, running_edge
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.proxy import write_pair

BASE = "tunnel.example.net"


@dataclass
class Served:
    """A connected tunnel: its record, its CA, and a name for each route."""

    tunnel: Tunnel
    ca: Pair
    folder: Path

    @property
    def record(self) -> TunnelRecord:
        return self.tunnel.record

    def url(self, route: str, path: str = "/mcp") -> str:
        return f"https://{route}.{self.record.domain}{path}"


class Listening(Protocol):
    """An edge in this process or another."""

    connector_address: tuple[str, int]
    client_address: tuple[str, int]


E = TypeVar("E", bound=Listening)


@dataclass
class Parts(Generic[E]):
    """An edge with its operator's files and the directory it asks."""

    files: OperatorFiles
    directory: DictDirectory
    server: E

    @property
    def edge(self) -> Edge:
        """How a gateway reaches the edge."""
        host, port = self.server.client_address
        certificate, key = self.files.path(CLIENT_NAME), self.files.path(f"{CLIENT_NAME}-key")
        return Edge(host, port, outer_context(certificate, key, self.files.path("client-listener-ca")))


PathParts = Parts[EdgeServer]


@asynccontextmanager
async def edge_running(folder: Path, organizations: Sequence[str]) -> AsyncIterator[PathParts]:
    """An edge without tunnels, whose one client may reach the organizations."""
    files = OperatorFiles.__new__(OperatorFiles)
    files.directory = folder / "operator"
    operator_pki.make(files.directory, BASE)
    files.client(CLIENT_NAME)
    directory = DictDirectory()
    mapping = [{"san": CLIENT_NAME, "organizations": list(organizations)}]
    async with running_edge(files, directory, client_organizations=mapping) as server:
        yield PathParts(files, directory, server)


@asynccontextmanager
async def tunnel_running(
    parts: Parts[E], folder: Path, routes: Mapping[str, str], *, name: str = "a", label: str = "a1b2c3d4"
) -> AsyncIterator[Served]:
    """A tunnel of organization and workspace `name` with a proxy behind it; routes lead to loopback URLs."""
    ca = throwaway_ca()
    tunnel = make_tunnel(label, certificates=(ca.certificate_pem.decode(),))
    owner = {"organization_id": OrganizationID(f"org_{name}"), "workspace_id": WorkspaceID(f"wrkspc_{name}")}
    tunnel.record = tunnel.record.model_copy(update=owner)
    parts.directory.add(tunnel)
    write_files(folder, ca, tunnel.record.domain)
    data = proxy_settings(folder, tunnel.record.domain, routes)
    config = parse_config(Document(yaml.safe_dump(data).encode(), "config.yaml"))
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(serve_proxy(config, listen=False))
        address = parts.server.connector_address
        connector = await connect(address, parts.files, tunnel.token, proxy.proxy, connector=uuid.uuid4())
        stack.callback(connector.close)
        yield Served(tunnel, ca, folder)


def proxy_settings(
    folder: Path, domain: str, routes: Mapping[str, str], listen: str = "127.0.0.1:0", allowed: str = "127.0.0.0/8"
) -> dict[str, object]:
    """What a proxy's file holds; its certificate is in the folder."""
    return {
        "listen_addr": listen,
        "tunnel_domain": domain,
        "tls": {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")},
        "routes": dict(routes),
        "upstream": {"allowed_ips": [allowed]},
        "shutdown_timeout": "1s",
    }


def write_files(folder: Path, ca: Pair, domain: str) -> None:
    """The CA certificate, and a server certificate for the domain."""
    folder.mkdir(exist_ok=True)
    write_pair(throwaway_server(ca, domain), folder / "tls.crt", folder / "tls.key")
    (folder / "ca.pem").write_bytes(ca.certificate_pem)
