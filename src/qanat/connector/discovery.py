"""Which addresses an edge can be dialled at: given ones, or SRV records.

Names are resolved again for every dial, so a changed record needs no restart; while DNS fails, what was last known
serves on.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

import dns.asyncresolver
import dns.exception
import dns.rdatatype

from qanat.connector.config import (
    DEFAULT_PORT,
    DEFAULT_WSS_PORT,
    SRV_NAME,
    WSS_PATH,
    ConnectorConfig,
    IPVersion,
    split_host_port,
)
from qanat.connector.spread import EdgeAddress
from qanat.errors import QanatError

RESOLVE_TIMEOUT = 10.0
_FAMILIES: dict[IPVersion, int] = {"auto": socket.AF_UNSPEC, "4": socket.AF_INET, "6": socket.AF_INET6}


@dataclass(eq=False)
class EdgeNotFound(QanatError):
    """No edge has an address we could dial."""

    code: ClassVar[str] = "edge_not_found"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    names: str
    reason: str

    def __str__(self) -> str:
        return f"no address for edge {self.names}: {self.reason}"


class Discovery:
    """Finds the addresses to dial on each rung of the ladder."""

    def __init__(self, config: ConnectorConfig) -> None:
        self._config = config
        self._entries = config.edge or (f"srv:{_srv_name(config.region)}",)
        self._known: dict[str, list[EdgeAddress]] = {}

    async def addresses(self, rung: str) -> list[EdgeAddress]:
        """At least one address. Raises `EdgeNotFound`."""
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                found = await (self._find_wss() if rung == "wss" else self._find())
        except (OSError, UnicodeError, TimeoutError, dns.exception.DNSException) as error:
            if rung not in self._known:
                raise EdgeNotFound(", ".join(self._entries), str(error) or "timed out") from error
            return self._known[rung]
        self._known[rung] = found
        return found

    async def _find(self) -> list[EdgeAddress]:
        found: list[EdgeAddress] = []
        problem: Exception | None = None
        for host, port in await self._hosts():
            try:
                found += [EdgeAddress(ip, port) for ip in await resolve(host, port, self._config.edge_ip_version)]
            except (OSError, UnicodeError) as error:  # the second for names that no DNS could hold
                problem = error
        if not found:
            raise problem or OSError("no edge is listed")
        return list(dict.fromkeys(found))

    async def _find_wss(self) -> list[EdgeAddress]:
        if self._config.edge_wss:
            return [_from_url(url) for url in self._config.edge_wss]
        hosts = dict.fromkeys(host for host, _ in await self._hosts())
        return [EdgeAddress(host, DEFAULT_WSS_PORT, host, WSS_PATH) for host in hosts]

    async def _hosts(self) -> list[tuple[str, int]]:
        hosts: list[tuple[str, int]] = []
        for entry in self._entries:
            if entry.startswith("srv:"):
                hosts += await look_up_srv(entry.removeprefix("srv:"))
            else:
                hosts.append(split_host_port(entry, DEFAULT_PORT))
        return hosts


def _srv_name(region: str | None) -> str:
    return SRV_NAME.replace("_v2-", f"_{region}-v2-", 1) if region else SRV_NAME


def _from_url(url: str) -> EdgeAddress:
    parts = urlsplit(url)
    assert parts.hostname is not None
    path = parts.path if parts.path not in ("", "/") else WSS_PATH
    return EdgeAddress(parts.hostname, parts.port or DEFAULT_WSS_PORT, parts.hostname, path)


async def resolve(host: str, port: int, version: IPVersion = "auto") -> list[str]:
    """The IP addresses of a host. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, family=_FAMILIES[version], type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def look_up_srv(name: str) -> list[tuple[str, int]]:
    """Targets and ports of an SRV record, best priority first. Raises `DNSException`."""
    answer = await dns.asyncresolver.resolve(name, dns.rdatatype.SRV, lifetime=RESOLVE_TIMEOUT)
    records = sorted(answer, key=lambda record: (record.priority, -record.weight))
    return [(str(record.target).rstrip("."), int(record.port)) for record in records]
