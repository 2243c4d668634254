"""Requests to authorization servers: through a tunnel when the host is behind one, else to public addresses only."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from qanat.gateway.access import Caller
from qanat.gateway.config import DirectEgress, OAuthSection
from qanat.gateway.egress import DirectTransport, EgressPolicy
from qanat.gateway.mcp_link import is_encoded
from qanat.gateway.oauth.model import SignInFailed
from qanat.gateway.reach import Reach, Unreachable, describe
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
MAX_BODY = 256 * 1024
MAX_REDIRECTS = 3
TIMEOUT = 10.0


class Fetcher:
    """Bounded requests on behalf of callers. Close it with `aclose`."""

    def __init__(self, reach: Reach, config: OAuthSection) -> None:
        egress = DirectEgress(
            mode="allow_list",
            hosts=("*",),
            allowed_ips=config.allowed_ips,
            http_hosts=config.http_hosts,
            ca_file=config.ca_file,
        )
        self._reach = reach
        self._policy = EgressPolicy(egress)
        self._direct = DirectTransport(self._policy, egress)

    async def aclose(self) -> None:
        await self._direct.aclose()

    async def get(self, caller: Caller, url: str, **options: Any) -> httpx2.Response:
        """The answer, same-origin redirects followed. Raises `SignInFailed` when there is none."""
        for _ in range(MAX_REDIRECTS + 1):
            response = await self.send(caller, "GET", url, **options)
            location = response.headers.get("location")
            if not response.is_redirect or location is None:
                return response
            following = _parse(location, base=url)
            if _origin(following) != _origin(_parse(url)):
                return response
            url = str(following)
        raise SignInFailed("too_many_redirects", "The authorization server redirects without end.")

    async def send(self, caller: Caller, method: str, url: str, **options: Any) -> httpx2.Response:
        """One request, no redirects; its whole answer. Raises `SignInFailed` when there is none."""
        parsed = self.check(url)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._send(caller, httpx2.Request(method, parsed, **options))
        except (httpx2.HTTPError, Unreachable, TimeoutError) as error:
            log.warn("authorization server unavailable", host=parsed.host, **describe(error))
            raise SignInFailed("unreachable", f"{parsed.host} could not be reached.") from None

    def check(self, url: str) -> httpx2.URL:
        """The address, if it may be used at all. Raises `SignInFailed`."""
        parsed = _parse(url)
        if parsed.scheme != "https" and not self._policy.permits_http(parsed.host):
            raise SignInFailed("insecure_url", f"{parsed.host} must be reached by https.")
        return parsed

    def check_page(self, url: str) -> None:
        """Whether a browser may be sent there. Raises `SignInFailed`."""
        host = self.check(url).host.lower().rstrip(".")
        if self._reach.tunnel_domain(host) is not None:
            raise SignInFailed(
                "unreachable_sign_in_page",
                f"The sign-in page is at {host}, behind a tunnel, where no browser gets; the authorization server's "
                "metadata must name an address that browsers can load.",
            )

    async def _send(self, caller: Caller, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host.lower().rstrip(".")
        request.headers.setdefault("accept", "application/json")
        request.headers["accept-encoding"] = "identity"
        if self._reach.tunnel_domain(host) is None:
            return await _read(self._direct, request)
        async with self._reach.transport(caller, host) as transport:
            return await _read(transport, request)


async def _read(transport: httpx2.AsyncBaseTransport, request: httpx2.Request) -> httpx2.Response:
    response = await transport.handle_async_request(request)
    body = bytearray()
    try:
        if is_encoded(response):
            raise httpx2.ReadError("the answer is compressed, which was not asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        # An MCP server may answer with an endless stream: only its head is wanted then.
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            async for data in response.stream:
                body += data
                if len(body) > MAX_BODY:
                    raise httpx2.ReadError("the answer is too large")
    finally:
        await response.aclose()
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "transfer-encoding"]
    return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


def _parse(url: str, base: str | None = None) -> httpx2.URL:
    """An address that a server named. Raises `SignInFailed` for what is none."""
    try:
        return httpx2.URL(url) if base is None else httpx2.URL(base).join(url)
    except httpx2.InvalidURL:
        raise SignInFailed("invalid_url", "The server names an address that is none.") from None


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
