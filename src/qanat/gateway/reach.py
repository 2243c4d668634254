"""The way to an MCP server: through its tunnel, or directly where the configuration allows it.

Connections through tunnels are pooled per tunnel host and workspace, never shared between workspaces. Whether a
tunnel is unknown, archived or somebody else's: the caller sees the same refusal.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
from cryptography import x509

from qanat.api.internal import TunnelRecord
from qanat.client import Edge, TunnelError, TunnelFailed, TunnelTransport, outer_context
from qanat.client.dial import ask_edge
from qanat.client.transport import CONNECT_TIMEOUT
from qanat.errors import QanatError
from qanat.gateway.access import Caller, ControlPlane
from qanat.gateway.config import EdgeSection, GatewayConfig
from qanat.gateway.egress import DirectTransport, EgressPolicy
from qanat.gateway.errors import invalid
from qanat.gateway.goodbyes import Goodbyes
from qanat.gateway.records import Records
from qanat.gateway.request import Server
from qanat.ids import TunnelID
from qanat.logger import get_logger
from qanat.pki.material import CertificateRefused, load_certificate

log = get_logger("qanat.gateway")
MAX_POOLS = 256


@dataclass(eq=False)
class Unreachable(QanatError):
    """There is no way to that server for this caller. The reason is for the log alone."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass
class ClosedTransport(httpx2.AsyncBaseTransport):
    """The way to a tunnel that may not be used. It takes the steps to one that is not connected, so that neither text
    nor time tells whether there is such a tunnel: the edge is asked for a name that nobody has."""

    edge: Edge
    nowhere: str
    reason: str

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeout = request.extensions.get("timeout", {}).get("connect") or CONNECT_TIMEOUT
        with contextlib.suppress(TunnelFailed):
            await ask_edge(self.edge, self.nowhere, timeout)
        raise TunnelFailed("tunnel_not_usable", "edge", self.reason)


@dataclass
class Pool:
    """The connections of one workspace to one tunnel host, trusting one set of CA certificates."""

    transport: TunnelTransport
    trusted: tuple[str, ...]
    """Empty once the tunnel no longer vouches for these connections."""
    users: int = 0
    retired: bool = False


@dataclass
class Reach:
    """Owns every connection to MCP servers. Close it with `aclose`."""

    config: GatewayConfig
    control: ControlPlane
    edge: Edge | None = None
    policy: EgressPolicy = field(init=False)
    records: Records = field(init=False)
    goodbyes: Goodbyes = field(default_factory=Goodbyes, init=False)
    """For the sessions of requests that have been answered."""

    def __post_init__(self) -> None:
        self.policy = EgressPolicy(self.config.direct_egress)
        self._direct: DirectTransport | None = None
        self._pools: OrderedDict[tuple[str, str, str], Pool] = OrderedDict()
        self.records = Records(self.control, self.revise)
        self._nowhere = f"route.{os.urandom(16).hex()}.{self.base_domain}"
        if self.edge is None and self.config.edge is not None:
            self.edge = to_edge(self.config.edge)

    @property
    def base_domain(self) -> str:
        return self.config.edge.base_domain.lower().strip(".") if self.config.edge is not None else ""

    def tunnel_domain(self, host: str) -> str | None:
        """The tunnel domain a host belongs to, or None when it is no tunnel host."""
        if not self.base_domain or not host.endswith(f".{self.base_domain}"):
            return None
        labels = host.removesuffix(f".{self.base_domain}").split(".")
        return f"{labels[-1]}.{self.base_domain}"

    def check(self, server: Server) -> None:
        """Refuse what can be refused without any network traffic. Raises `APIError` (400)."""
        self.check_url(server.url, f"mcp_servers.{server.index}.url")

    def check_url(self, url: str, where: str = "url") -> None:
        """The same for a URL by itself; `where` names it in the message."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower().rstrip(".")
        domain = self.tunnel_domain(host)
        if domain is not None or host == self.base_domain != "":
            if parts.scheme != "https" or parts.port not in (None, 443):
                raise invalid(f"{where}: a tunnel is reached by https:// on port 443")
            if host in (domain, self.base_domain):
                raise invalid(f"{where}: names a tunnel domain; put the route in front of it")
            return
        if parts.scheme == "http" and not self.policy.permits_http(host):
            raise invalid(f"{where}: must be an https:// URL")
        if not self.policy.permits(parts.scheme, host):
            raise invalid(f"{where}: this gateway does not reach hosts outside its tunnels, or not this one")

    @asynccontextmanager
    async def transport(self, caller: Caller, host: str) -> AsyncIterator[httpx2.AsyncBaseTransport]:
        """The transport to a host, for as long as the context lasts. Raises `Unreachable`."""
        domain = self.tunnel_domain(host)
        if domain is None:
            if self._direct is None:
                self._direct = DirectTransport(self.policy, self.config.direct_egress)
            yield self._direct
            return
        found = await self._find(caller.scope, domain)
        if self.edge is None:
            raise Unreachable("no edge is configured")
        if isinstance(found, str):
            yield ClosedTransport(self.edge, self._nowhere, found)
            return
        pool = await self._pool((*caller.scope, host), found)
        pool.users += 1
        while len(self._pools) > MAX_POOLS:
            await self._retire(next(iter(self._pools)))
        try:
            yield pool.transport
        finally:
            pool.users -= 1
            if pool.retired and not pool.users:
                await pool.transport.aclose()

    def tunnel_id(self, caller: Caller, host: str) -> TunnelID | None:
        """The tunnel a host was last found behind; None for other hosts, and for tunnels that are not the caller's."""
        domain = self.tunnel_domain(host)
        record = self.records.known((*caller.scope, domain)) if domain is not None else None
        mine = (caller.principal.organization_id, caller.principal.workspace_id)
        return record.id if record is not None and (record.organization_id, record.workspace_id) == mine else None

    async def owns(self, caller: Caller, host: str) -> bool:
        """Whether a host is behind a tunnel that this caller may use, now."""
        domain = self.tunnel_domain(host)
        return domain is not None and not isinstance(await self._find(caller.scope, domain), str)

    async def find(self, caller: Caller, host: str) -> TunnelRecord | str:
        """The tunnel that a host is behind, or why this caller may not use it."""
        domain = self.tunnel_domain(host)
        return "that host is behind no tunnel" if domain is None else await self._find(caller.scope, domain)

    async def _find(self, scope: tuple[str, str], domain: str) -> TunnelRecord | str:
        """The record of a tunnel that may be used, or why it may not."""
        try:
            record = await self.records.get((*scope, domain))
        except QanatError as error:
            return f"control plane unavailable: {error}"
        if record is None:
            return "no such tunnel"
        if (record.organization_id, record.workspace_id or "") != scope:
            return "the tunnel belongs to another workspace"
        if record.archived:
            return "the tunnel is archived"
        return record if record.ca_certificates else "no CA certificate is registered on the tunnel"

    async def revise(self, domain: str | None) -> None:
        """A tunnel changed, or any may have: connections that it no longer vouches for end, those in use as well."""
        for key in list(self._pools):
            tunnel = self.tunnel_domain(key[2])
            if tunnel is None or domain not in (None, tunnel):
                continue
            found = await self._find(key[:2], tunnel)
            pool = self._pools.get(key)
            if pool is not None and (isinstance(found, str) or found.ca_certificates != pool.trusted):
                pool.trusted = ()  # requests that still hold it make no new connection
                await self._retire(key)
                await pool.transport.aclose()

    async def _pool(self, key: tuple[str, str, str], record: TunnelRecord) -> Pool:
        while (pool := self._pools.get(key)) is not None and pool.trusted != record.ca_certificates:
            await self._retire(key)  # sessions made under another trust are not used again
        if pool is None:
            assert self.edge is not None
            anchors = load_anchors(record.ca_certificates)

            async def trusted(_: str) -> Sequence[x509.Certificate]:
                return anchors if fresh.trusted else []

            pool = fresh = self._pools[key] = Pool(TunnelTransport(self.edge, trusted), record.ca_certificates)
        self._pools.move_to_end(key)
        return pool

    async def _retire(self, key: tuple[str, str, str]) -> None:
        pool = self._pools.pop(key, None)
        if pool is None:
            return
        pool.retired = True
        if not pool.users:
            await pool.transport.aclose()

    async def aclose(self) -> None:
        """Close every connection, once the sessions on it have ended."""
        await self.goodbyes.aclose()
        for key in list(self._pools):
            await self._retire(key)
        if self._direct is not None:
            await self._direct.aclose()


def load_anchors(pems: Sequence[str]) -> list[x509.Certificate]:
    """The registered CA certificates; one that cannot be read vouches for nobody."""
    anchors = []
    for pem in pems:
        try:
            anchors.append(load_certificate(pem))
        except CertificateRefused as refusal:
            log.error("registered CA certificate unreadable", error=str(refusal))
    return anchors


def to_edge(section: EdgeSection) -> Edge:
    """The configured edge. Raises `OSError` for unreadable files."""
    host, _, port = section.address.rpartition(":")
    return Edge(host.strip("[]"), int(port), outer_context(section.cert_file, section.key_file, section.ca_file))


def describe(error: BaseException) -> dict[str, str]:
    """Log fields for a connection that failed: never a caller's token or content."""
    if isinstance(error, TunnelError):
        return {"error": error.message, "code": error.reason, "hop": error.hop}
    if isinstance(error, Unreachable):
        return {"error": error.reason}
    return {"error": type(error).__name__}
