"""Fetching what an authorization server publishes: https only, no redirects, bounded, and only from judged addresses.

The name is looked up once; the address that passed is the one that is dialled, with the name kept for TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx2

from qanat.errors import QanatError
from qanat.proxy.guard import AddressGuard
from qanat.wire.addresses import join_host_port, reached

MAX_ANSWER = 1024 * 1024
MAX_CONNECTIONS = 100
TIMEOUT = httpx2.Timeout(10.0, connect=5.0)


@dataclass(eq=False)
class FetchFailed(QanatError):
    """The authorization server did not give a usable answer."""

    code: ClassVar[str] = "auth_unavailable"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    reason: str

    def __str__(self) -> str:
        return self.reason


class Fetcher:
    """Reaches the authorization server of one route."""

    def __init__(
        self,
        resolve: Callable[[str], Awaitable[list[str]]],
        guard: AddressGuard,
        allow_public: bool,
        tls: ssl.SSLContext,
    ) -> None:
        self._resolve, self._guard, self._allow_public = resolve, guard, allow_public
        # None is kept: the pool knows connections by address, and would take one that was verified for another name.
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0)
        self._client = httpx2.AsyncClient(
            verify=tls, timeout=TIMEOUT, limits=limits, follow_redirects=False, trust_env=False
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def get(self, url: str) -> bytes:
        """The body of a 200. Raises `FetchFailed`."""
        return await self._ask("GET", url)

    async def post_form(self, url: str, form: dict[str, str], auth: tuple[str, str]) -> bytes:
        """The body of a 200 to a form, with HTTP Basic authentication. Raises `FetchFailed`."""
        return await self._ask("POST", url, data=form, auth=auth)

    async def _ask(self, method: str, url: str, **content: Any) -> bytes:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        address = await self._choose(host)
        target = parts._replace(netloc=join_host_port(address, port)).geturl()
        headers = {"Host": parts.netloc.rpartition("@")[2], "Accept": "application/json"}
        try:
            async with self._client.stream(
                method, target, headers=headers, extensions={"sni_hostname": host}, **content
            ) as answer:
                if answer.status_code != 200:
                    raise FetchFailed(f"{host} answered {answer.status_code}")
                return await _read(answer, host)
        except httpx2.HTTPError as error:
            raise FetchFailed(f"{host}: {type(error).__name__}") from error

    async def _choose(self, host: str) -> str:
        try:
            addresses = [str(ip_address(host))]
        except ValueError:
            addresses = await self._resolve(host)
        for address in addresses:
            if self._guard.permits(address) or (self._allow_public and reached(ip_address(address)).is_global):
                return address
        raise FetchFailed(f"address of {host} is not allowed")


async def _read(answer: httpx2.Response, host: str) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise FetchFailed(f"{host} answered more than {MAX_ANSWER} bytes")
    return bytes(body)
