"""Fetching discovery documents and key sets, without being sent to places an administrator did not mean.

By default only `https` on port 443 of names that resolve to public addresses. The address is checked at the moment of
dialling, and exactly that address is dialled, so a name cannot be rebound in between.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx2

from qanat.control.config import FetchPolicy
from qanat.errors import QanatError
from qanat.wire.addresses import reached

MAX_DOCUMENT = 1024 * 1024
CONNECT_TIMEOUT = 5.0
TOTAL_TIMEOUT = 10.0
Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(eq=False)
class FetchFailed(QanatError):
    """A URL may not be fetched, or did not give what it should."""

    code = "fetch_failed"
    reason: str

    def __str__(self) -> str:
        return self.reason


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class Fetcher:
    """Fetches JSON documents under a policy."""

    def __init__(self, policy: FetchPolicy, resolve: Resolve = resolve) -> None:
        self._policy, self._resolve = policy, resolve

    async def check(self, url: str) -> None:
        """Whether `url` may be dialled as things stand. Raises `FetchFailed`."""
        await self._address(self.parse(url))

    async def fetch_keys(self, url: str, ca_pem: str | None) -> list[Any]:
        """The `keys` of a key set. Raises `FetchFailed`."""
        keys = (await self.fetch(url, ca_pem)).get("keys")
        if not isinstance(keys, list):
            raise FetchFailed("the document has no keys")
        return keys

    async def discover(self, base: str, ca_pem: str | None) -> str:
        """The `jwks_uri` of an OpenID provider. Raises `FetchFailed`."""
        url = (await self.fetch(base.removesuffix("/") + "/.well-known/openid-configuration", ca_pem)).get("jwks_uri")
        if not isinstance(url, str):
            raise FetchFailed("the discovery document has no jwks_uri")
        return url

    async def fetch(self, url: str, ca_pem: str | None) -> dict[str, Any]:
        """A JSON object. Raises `FetchFailed`."""
        status, document = await self.ask(url, ca_pem)
        if status != 200:
            raise FetchFailed(f"{urlsplit(url).hostname} answered with status {status}")
        return document

    async def ask(
        self,
        url: str,
        ca_pem: str | None,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of an answer, to a GET or to a posted form. Raises `FetchFailed`."""
        parts = self.parse(url)
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                status, body = await self._send(parts, ca_pem, form, headers or {})
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError, OSError, TimeoutError) as error:
            raise FetchFailed(f"{parts.hostname} did not answer: {type(error).__name__}") from error
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            return status, document
        if status != 200:
            raise FetchFailed(f"{parts.hostname} answered with status {status}")
        raise FetchFailed("the document is not JSON" if document is None else "the document is not a JSON object")

    async def _send(
        self, parts: SplitResult, ca_pem: str | None, form: Mapping[str, str] | None, more: Mapping[str, str]
    ) -> tuple[int, bytes]:
        address, host = await self._address(parts), str(parts.hostname)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        literal = f"[{address}]" if address.version == 6 else str(address)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = host if parts.port is None else f"{host}:{parts.port}"
        headers = {"accept": "application/json", "host": authority, **more}
        timeout = httpx2.Timeout(TOTAL_TIMEOUT, connect=CONNECT_TIMEOUT)
        verify = ssl.create_default_context(cadata=ca_pem) if ca_pem else ssl.create_default_context()
        async with (
            httpx2.AsyncClient(verify=verify, timeout=timeout, trust_env=False, follow_redirects=False) as client,
            client.stream(
                "GET" if form is None else "POST",
                f"{parts.scheme}://{literal}:{port}{path}",
                data=form,
                headers=headers,
                extensions={"sni_hostname": host},
            ) as response,
        ):
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    raise FetchFailed("the document is larger than 1 MiB")
            return response.status_code, body

    def parse(self, url: str) -> SplitResult:
        """A URL that the policy lets be asked, as far as its text tells. Raises `FetchFailed`."""
        parts = parse_url(url)
        host = str(parts.hostname)
        if not url.isascii():
            raise FetchFailed("url must be ASCII; international host names are written as xn--…")
        if parts.scheme != "https" and not (parts.scheme == "http" and _listed(host, self._policy.allow_http_hosts)):
            raise FetchFailed("url must use https scheme")
        default = 443 if parts.scheme == "https" else 80
        if parts.port not in (None, default, *self._policy.allow_ports):
            raise FetchFailed("url must use port 443")
        if _is_literal(host) and not _listed(host, self._policy.allow_hosts):
            raise FetchFailed("url must have a host name, not an IP address")
        return parts

    async def _address(self, parts: SplitResult) -> IPv4Address | IPv6Address:
        host, port = str(parts.hostname), parts.port or 443
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                found = [ip_address(text.split("%")[0]) for text in await self._resolve(host, port)]
        except (OSError, UnicodeError, TimeoutError):
            raise FetchFailed("url host does not resolve") from None
        trusted = _listed(host, self._policy.allow_hosts)
        # One private address among public ones is enough to refuse: which of them gets dialled must not be luck.
        if not found or not all(self._allowed(address, trusted=trusted) for address in found):
            raise FetchFailed("url host must resolve to public addresses only")
        return found[0]

    def _allowed(self, address: IPv4Address | IPv6Address, *, trusted: bool) -> bool:
        if any(address in network for network in self._policy.allow_cidrs):
            return True
        if trusted and not self._policy.allow_cidrs:
            return True
        end = reached(address)
        return end.is_global and not end.is_multicast


def parse_url(url: str) -> SplitResult:
    """An absolute http(s) URL with a host and without credentials or fragment. Raises `FetchFailed`."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise FetchFailed("must be an absolute url") from None
    if not parts.scheme or not parts.hostname or any(char.isspace() or not char.isprintable() for char in url):
        raise FetchFailed("must be an absolute url")
    if parts.username is not None or parts.password is not None:
        raise FetchFailed("url must not contain credentials")
    return parts


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        # 127.1, 0x7f000001 and the like are names to a URL parser and addresses to a resolver.
        return host.rsplit(".", 1)[-1].isdigit() or host.startswith("0x")
    return True


def _listed(host: str, patterns: tuple[str, ...]) -> bool:
    host = host.lower()
    return any(host == item.lower() or (item.startswith("*.") and host.endswith(item[1:].lower())) for item in patterns)
