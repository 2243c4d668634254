"""Reaching an upstream: look the name up once, judge the addresses, dial the one that passed, by number."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from qanat.net.tls import TLSClient
from qanat.net.transport import Receiver, as_protocol
from qanat.proxy.errors import (
    AddressDenied,
    ConnectFailed,
    ConnectTimedOut,
    ResolutionFailed,
)
from qanat.proxy.guard import AddressGuard, Family
from qanat.proxy.upstream import UpstreamConnection
from qanat.proxy.upstream_url import UpstreamURL
from qanat.wire.addresses import join_host_port

RESOLVE_TIMEOUT = 5.0
NEGATIVE_LIFETIME = 2.0
"""Seconds for which a name that did not resolve is not looked up again."""

_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ECONNRESET: "connection reset by peer",
}

Families = tuple[Family, ...]
"""Which addresses are looked for, the preferred ones first."""
IPV4: Final[Families] = ("ipv4",)
Lookup = Callable[[str, Families], Awaitable[list[str]]]
"""From a name to its addresses, in that order. Raises `OSError` when it has none."""


class SystemLookup:
    """The system's resolver (files, then DNS), in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")

    async def __call__(self, name: str, families: Families) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, look_up, name, families)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Let the threads go; those that still wait for an answer are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def look_up(name: str, families: Families) -> list[str]:
    """The addresses of a name, those of the first family first. Blocks. Raises `OSError`."""
    kinds = [socket.AF_INET6 if family == "ipv6" else socket.AF_INET for family in families]
    asked = kinds[0] if len(kinds) == 1 else socket.AF_UNSPEC
    found = socket.getaddrinfo(name, None, family=asked, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in sorted(found, key=lambda entry: kinds.index(entry[0]))]


class Resolver:
    """Looks names up. Answers are not kept, because the system's resolver hides how long they live; those who ask at
    the same time share one lookup, and a failure is remembered for two seconds."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._pending: dict[tuple[str, Families], asyncio.Task[list[str]]] = {}
        self._failed: dict[tuple[str, Families], float] = {}

    async def resolve(self, name: str, families: Families = IPV4) -> list[str]:
        """The addresses of `name`. Raises `ResolutionFailed`."""
        loop = asyncio.get_running_loop()
        asked = name, families
        if loop.time() < self._failed.get(asked, 0.0):
            raise ResolutionFailed(f"lookup {name}: failed a moment ago")
        task = self._pending.get(asked)
        if task is None:
            task = self._pending[asked] = loop.create_task(self._ask(name, families))
            task.add_done_callback(lambda _: self._pending.pop(asked, None))
        try:
            return await asyncio.shield(task)  # others may wait for the same answer
        except (OSError, TimeoutError, UnicodeError) as error:
            self._failed[asked] = loop.time() + NEGATIVE_LIFETIME
            raise ResolutionFailed(f"lookup {name}: {str(error) or 'timed out'}") from error

    async def _ask(self, name: str, families: Families) -> list[str]:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            return await self._lookup(name, families)

    async def close(self) -> None:
        """Give up what is still being looked up."""
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a route's connections go, and under which conditions."""

    url: UpstreamURL
    guard: AddressGuard
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    timeout: float = 10.0
    """Seconds for the connection and its handshake, over all addresses; 0 is no limit."""
    families: Families = IPV4


class Dialler:
    """Opens connections to upstreams."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def dial(self, destination: Destination, make: Callable[[str], UpstreamConnection]) -> UpstreamConnection:
        """Open a connection; `make` gets the address and returns its protocol. Raises `ProxyError`."""
        *others, last = await self._choose(destination)
        timeout = destination.timeout / (len(others) + 1)
        for address in others:
            with contextlib.suppress(ConnectFailed, ConnectTimedOut):
                return await self._try(destination, address, make, timeout)
        return await self._try(destination, last, make, timeout)

    async def _choose(self, destination: Destination) -> list[str]:
        """One address of each family."""
        url, families = destination.url, destination.families
        addresses = [str(url.address)] if url.address else await self._resolver.resolve(url.host, families)
        if not addresses:
            raise ResolutionFailed(f"lookup {url.host}: no address")
        chosen: dict[bool, str] = {}
        for address in destination.guard.permitted(addresses):
            chosen.setdefault(":" in address, address)
        if not chosen:
            raise AddressDenied(addresses[0])
        return list(chosen.values())

    async def _try(
        self, destination: Destination, address: str, make: Callable[[str], UpstreamConnection], timeout: float
    ) -> UpstreamConnection:
        connection = make(address)
        try:
            await self._connect(destination, address, connection, timeout)
        except BaseException:
            connection.give_up()
            raise
        return connection

    async def _connect(
        self, destination: Destination, address: str, connection: UpstreamConnection, timeout: float
    ) -> None:
        loop = asyncio.get_running_loop()
        port = destination.url.port
        where = f"dial tcp {join_host_port(address, port)}"
        try:
            async with asyncio.timeout(timeout or None):
                transport, _ = await loop.create_connection(
                    lambda: as_protocol(_layers(destination, connection)), address, port, flags=socket.AI_NUMERICHOST
                )
                connection.attach(transport)
                _check_peer(transport, address)
                await connection.ready
        except TimeoutError as error:
            raise ConnectTimedOut(f"{where}: i/o timeout") from error
        except OSError as error:
            raise ConnectFailed(f"{where}: connect: {_reason(error)}") from error


def _layers(destination: Destination, connection: UpstreamConnection) -> Receiver:
    if destination.tls is None:
        return connection
    return TLSClient(
        connection,
        destination.tls,
        destination.server_name,
        on_failure=connection.handshake_failed,
        handshake_timeout=destination.timeout or 60.0,
    )


def _check_peer(transport: asyncio.BaseTransport, address: str) -> None:
    peer = transport.get_extra_info("peername")
    if peer is None or ip_address(peer[0]).packed != ip_address(address).packed:
        raise AddressDenied(str(peer[0]) if peer else "unknown")


def _reason(error: OSError) -> str:
    if error.errno in _REASONS:
        return _REASONS[error.errno]
    return os.strerror(error.errno).lower() if error.errno else "failed"
