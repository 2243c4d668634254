"""The MCP servers of one request: asked for their tools in parallel, called when the model wants, let go at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import httpx2
from pydantic import SecretStr

from qanat.gateway.access import Caller
from qanat.gateway.calls import CallReport, Failure, failure_of, failure_of_result
from qanat.gateway.config import Limits
from qanat.gateway.errors import APIError, authentication_failed, connection_failed, server_failed
from qanat.gateway.mcp_link import Link, LinkFailed
from qanat.gateway.metrics import Metrics
from qanat.gateway.reach import Reach, Unreachable, describe
from qanat.gateway.request import MessagesRequest, Server
from qanat.gateway.results import ToolResult, failed
from qanat.gateway.tool_cache import ToolCache
from qanat.gateway.tools import Listing
from qanat.logger import get_logger

log = get_logger("qanat.gateway")


class VaultUse(Protocol):
    """Whoever knows the credentials of the vault that a request names."""

    async def auth(self, url: str) -> httpx2.Auth | None: ...


class BearerAuth(httpx2.Auth):
    """Sends one token."""

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["authorization"] = f"Bearer {self._token.get_secret_value()}"
        yield request


class Servers:
    """Links to the servers of one request. An async context manager; leaving it lets every session end by itself."""

    def __init__(
        self,
        request: MessagesRequest,
        caller: Caller,
        reach: Reach,
        cache: ToolCache,
        limits: Limits,
        metrics: Metrics,
        request_id: str,
        vault: VaultUse | None = None,
        report: CallReport | None = None,
    ) -> None:
        self._report = report
        self._vault = vault
        self._caller, self._reach, self._cache = caller, reach, cache
        self._limits, self._metrics, self._request_id = limits, metrics, request_id
        self._servers = {server.name: server for server in request.servers}
        self._links: dict[str, asyncio.Task[Link]] = {}
        self._spent: list[Link] = []

    async def __aenter__(self) -> Servers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()  # nothing happens to those that are connected already
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            links = [task.result() for task in tasks if _is_connected(task)]
            for link in (*links, *self._spent):
                self._reach.goodbyes.say(link)

    async def list_all(self, pinned: dict[str, Listing]) -> dict[str, Listing]:
        """The tools of every server that is not pinned. Raises `APIError` for the first server that fails."""
        servers = [server for server in self._servers.values() if server.name not in pinned]
        tasks = [asyncio.create_task(self._list(server)) for server in servers]
        try:
            listings = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return {server.name: listing for server, listing in zip(servers, listings, strict=True)}

    async def _list(self, server: Server) -> Listing:
        now = asyncio.get_running_loop().time()
        link: Link | None = None
        problem: Failure | None = Failure("cancelled", "client")
        if self._vault is None and (cached := self._cache.get(self._caller, server, now)) is not None:
            return cached
        try:
            link = await self._link(server)
            listing, hint = await link.list_tools()
            problem = None
        except LinkFailed as failure:
            problem = failure_of(failure)
            raise self._refusal(server, failure) from None
        finally:
            self._tell(server, "tools/list", None, now, link, problem)
        if self._vault is None:  # what a vault's user may see is not kept
            self._cache.put(self._caller, server, listing, hint, now)
        return listing

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Run a tool; every failure is an error result."""
        started = asyncio.get_running_loop().time()
        link: Link | None = None
        try:
            async with asyncio.timeout(self._limits.tool_call.total_seconds() + self._limits.connect.total_seconds()):
                link = await self._link(self._servers[server])
                result = await link.call(tool, arguments)
            problem = failure_of_result(link, result)
        except LinkFailed as failure:
            refused = failure.kind == "authentication"
            what = "refused the authorization token" if refused else "could not be reached"
            result = failed(f"The MCP server {what}.")
            problem = failure_of(failure)
            self._log(self._servers[server], failure)
        except TimeoutError:
            result = failed("The tool call timed out.")
            problem = Failure("timed out", "upstream")
        self._tell(self._servers[server], "tools/call", tool, started, link, problem)
        self._metrics.observe_call(self._servers[server].host, result, asyncio.get_running_loop().time() - started)
        return result

    def _tell(
        self, server: Server, method: str, tool: str | None, started: float, link: Link | None, problem: Failure | None
    ) -> None:
        if self._report is not None:
            seconds = asyncio.get_running_loop().time() - started
            self._report.ended(server, method, tool, seconds, link, problem)

    async def _link(self, server: Server) -> Link:
        """The link to a server, made at first use, and anew when its session is over. Raises `LinkFailed`."""
        task = self._links.get(server.name)
        if task is not None and _is_connected(task) and task.result().spent:
            self._spent.append(task.result())
            task = None
        if task is None or (task.done() and not _is_connected(task)):
            task = self._links[server.name] = asyncio.create_task(self._connect(server))
        return await asyncio.shield(task)

    async def _connect(self, server: Server) -> Link:
        source = partial(self._transport, server)
        link = Link(server.url, await self._auth(server), source, self._limits)
        await link.open()
        return link

    async def _auth(self, server: Server) -> httpx2.Auth | None:
        """The request's own token, else one from the caller's vault."""
        if server.token is not None:
            return BearerAuth(server.token)
        return await self._vault.auth(server.url) if self._vault is not None else None

    @asynccontextmanager
    async def _transport(self, server: Server) -> AsyncIterator[Any]:
        async with self._reach.transport(self._caller, server.host) as transport:
            yield transport

    def _refusal(self, server: Server, failure: LinkFailed) -> APIError:
        self._log(server, failure)
        self._metrics.count_failure(server.host, failure.kind)
        if failure.kind == "authentication":
            return authentication_failed(server.index, server.name)
        if failure.kind == "protocol" and self._reach.tunnel_domain(server.host) is None:
            return server_failed(server.index, server.name, failure.reason)
        return connection_failed(server.index, server.name)

    def _log(self, server: Server, failure: LinkFailed) -> None:
        fields = describe(failure.cause) if failure.cause is not None else {"error": failure.reason}
        if isinstance(failure.cause, Unreachable):
            fields["reason"] = failure.cause.reason
        log.warn("mcp server unavailable", host=server.host, kind=failure.kind, request_id=self._request_id, **fields)


def _is_connected(task: asyncio.Task[Link]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
