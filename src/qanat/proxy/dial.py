"""Reaching an upstream: look the name up once, judge the addresses, dial the one that passed, by number."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from qanat.net.tls import TLSClient
from qanat.net.transport import Receiver, as_protocol
from qanat.proxy.errors import (
    AddressDenied,
    ConnectFailed,
    ConnectTimedOut,
    ResolutionFailed,
)
from qanat.proxy.guard import AddressGuard
from qanat.proxy.upstream import UpstreamConnection
from qanat.proxy.upstream_url import UpstreamURL

RESOLVE_TIMEOUT = 5.0
NEGATIVE_LIFETIME = 2.0
"""Seconds for which a name that did not resolve is not looked up again."""

_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ECONNRESET: "connection reset by peer",
}

Lookup = Callable[[str], Awaitable[list[str]]]
"""From a name to its IPv4 addresses. Raises `OSError` when it has none."""


class SystemLookup:
    """The system's resolver (files, then DNS), in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")

    async def __call__(self, name: str) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _lookup_ipv4, name)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Let the threads go; those that still wait for an answer are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _lookup_ipv4(name: str) -> list[str]:
    found = socket.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Resolver:
    """Looks names up. Answers are not kept, because the system's resolver hides how long they live; those who ask at
    the same time share one lookup, and a failure is remembered for two seconds."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._pending: dict[str, asyncio.Task[list[str]]] = {}
        self._failed: dict[str, float] = {}

    async def resolve(self, name: str) -> list[str]:
        """The addresses of `name`. Raises `ResolutionFailed`."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._failed.get(name, 0.0):
            raise ResolutionFailed(f"lookup {name}: failed a moment ago")
        task = self._pending.get(name)
        if task is None:
            task = self._pending[name] = loop.create_task(self._ask(name))
            task.add_done_callback(lambda _: self._pending.pop(name, None))
        try:
            return await asyncio.shield(task)  # others may wait for the same answer
        except (OSError, TimeoutError, UnicodeError) as error:
            self._failed[name] = loop.time() + NEGATIVE_LIFETIME
            raise ResolutionFailed(f"lookup {name}: {str(error) or 'timed out'}") from error

    async def _ask(self, name: str) -> list[str]:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            return await self._lookup(name)

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


class Dialler:
    """Opens connections to upstreams."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def dial(self, destination: Destination, make: Callable[[str], UpstreamConnection]) -> UpstreamConnection:
        """Open a connection; `make` gets the address and returns its protocol. Raises `ProxyError`."""
        address = await self._choose(destination)
        connection = make(address)
        try:
            await self._connect(destination, address, connection)
        except BaseException:
            connection.give_up()
            raise
        return connection

    async def _choose(self, destination: Destination) -> str:
        literal = destination.url.address
        addresses = [str(literal)] if literal else await self._resolver.resolve(destination.url.host)
        if not addresses:
            raise ResolutionFailed(f"lookup {destination.url.host}: no address")
        address = destination.guard.first_permitted(addresses)
        if address is None:
            raise AddressDenied(addresses[0])
        return address

    async def _connect(self, destination: Destination, address: str, connection: UpstreamConnection) -> None:
        loop = asyncio.get_running_loop()
        port = destination.url.port
        where = f"dial tcp {address}:{port}"
        try:
            async with asyncio.timeout(destination.timeout or None):
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
    if peer is None or peer[0] != address:
        raise AddressDenied(str(peer[0]) if peer else "unknown")


def _reason(error: OSError) -> str:
    if error.errno in _REASONS:
        return _REASONS[error.errno]
    return os.strerror(error.errno).lower() if error.errno else "failed"
