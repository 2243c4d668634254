"""Reaching servers that are not behind a tunnel: names the operator allows, and public addresses only.

The address is checked after resolving and is the one that is dialled, so a name cannot change its mind in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore2
import httpx2

from qanat.gateway.config import DirectEgress
from qanat.wire.addresses import reached

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class EgressPolicy:
    """What the configuration says about direct connections."""

    def __init__(self, config: DirectEgress) -> None:
        self._config = config
        self._allowed = [ipaddress.ip_network(network) for network in config.allowed_ips]

    def permits(self, scheme: str, host: str) -> bool:
        """Whether that name may be reached at all."""
        if self._config.mode == "off":
            return False
        if scheme == "http" and not matches(host, self._config.http_hosts):
            return False
        return matches(host, self._config.hosts)

    def permits_http(self, host: str) -> bool:
        return matches(host, self._config.http_hosts)

    def permits_address(self, address: IPAddress) -> bool:
        """Public addresses, and the private ones that are allowed by name."""
        address = reached(address)
        if any(address.version == network.version and address in network for network in self._allowed):
            return True
        return address.is_global and not address.is_multicast


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host is one of the names; `*.example.com` stands for everything below, `*` for all."""
    for pattern in patterns:
        if pattern == "*" or host == pattern.lower():
            return True
        if pattern.startswith("*.") and host.endswith(pattern[1:].lower()):
            return True
    return False


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Dials only addresses the policy permits."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._resolve(host, port, timeout)
        permitted = [address for address in addresses if self._policy.permits_address(ipaddress.ip_address(address))]
        if not permitted:
            raise httpcore2.ConnectError("no address of the server may be dialled")
        for address in permitted[:-1]:
            with contextlib.suppress(httpcore2.ConnectError):  # the next one may be there
                return await self._plain.connect_tcp(address, port, timeout)
        return await self._plain.connect_tcp(permitted[-1], port, timeout)

    async def _resolve(self, host: str, port: int, timeout: float | None) -> Sequence[str]:
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:  # the last for labels no name can have
            raise httpcore2.ConnectError("the server's name cannot be resolved") from error
        return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class DirectTransport(httpx2.AsyncHTTPTransport):
    """HTTP over guarded connections, TLS verified against the system's roots (and extra ones, if configured)."""

    def __init__(self, policy: EgressPolicy, config: DirectEgress) -> None:
        context = ssl.create_default_context()
        if config.ca_file is not None:
            context.load_verify_locations(config.ca_file)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=256,
            max_keepalive_connections=64,
            keepalive_expiry=30.0,
            network_backend=GuardedBackend(policy),
        )
