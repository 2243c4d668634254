"""One MCP server for the length of one request: connect, list, call, say goodbye.

The protocol is the official SDK's. Its client must be entered and left by one task, so each link has a task of its own
that does just that; calls come from wherever the loop runs them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
import mcp_types
from mcp import Client, ClientSession, MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import ConfigDict, ValidationError

from qanat import __version__
from qanat.client import TunnelLost
from qanat.gateway.config import Limits
from qanat.gateway.hops import hop_of_answer
from qanat.gateway.inbox import Inbox
from qanat.gateway.results import ToolResult, failed, from_mcp
from qanat.gateway.strict_json import mend_halves
from qanat.gateway.tools import ListedTool, Listing
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
MAX_PAGES = 50
SHOWN = 10
"""Names of tools in one line of the log."""
GOODBYE = 5.0
NOTICE = 1.0
"""Seconds a server may take to accept that a call is cancelled."""
SSE_FALLBACK = frozenset({400, 404, 405})
LOST = -32099
"""Our own code for a request that got no answer, out of those that JSON-RPC leaves to servers."""
INFO = mcp_types.Implementation(name="qanat-gateway", version=__version__)

C = TypeVar("C", bound=httpx2.AsyncClient)
TransportSource = Callable[[], AbstractAsyncContextManager[httpx2.AsyncBaseTransport]]


class RawResult(mcp_types.Result):
    """A result whose fields are left as they came."""

    model_config = ConfigDict(extra="allow")


class LinkFailed(Exception):
    """The server could not be used. `kind` is `authentication`, `connection` or `protocol`."""

    refusal: tuple[str, str] | None = None
    """Hop and code, when the tunnel's proxy spoke for itself."""

    def __init__(self, kind: str, reason: str, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.cause = kind, reason, cause


@dataclass
class Observed(httpx2.AsyncBaseTransport):
    """Remembers what the SDK does not tell: statuses. Refuses redirects, and answers without end."""

    inner: httpx2.AsyncBaseTransport
    max_bytes: int
    statuses: list[int] = field(default_factory=list)
    failure: BaseException | None = None
    proxy_refusal: tuple[str, str] | None = None
    """Hop and code, when the last answer was the tunnel's proxy speaking for itself."""
    bytes_in: int = 0
    bytes_out: int = 0
    listens: bool = False
    """Whether a stream of server messages is wanted; otherwise it would hold a connection for nothing."""
    deaf: bool = False
    """The server did not take a cancellation in time: the SDK would send further ones behind it, one by one."""
    settled: bool = False
    """Requests stand for themselves from now on: one that fails is answered with an error, and the session goes on."""
    over: bool = False
    """Nothing more is sent: the SDK would say goodbye even when it is cancelled."""
    _stream: Bounded | None = None
    """What the SSE transport listens to."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.over:
            return httpx2.Response(405)
        if request.method == "GET" and not self.listens and "last-event-id" not in request.headers:
            return httpx2.Response(405)
        self.bytes_in += int(request.headers.get("content-length", "0"))
        if request.method == "POST" and self._stream is not None:
            self._stream.size = 0  # what comes from here on is another answer
        try:
            return await (self._post(request) if request.method == "POST" else self._exchange(request))
        except Exception as error:
            self.failure = error
            if not self.settled:
                raise
            return lost_answer(error)

    async def _post(self, request: httpx2.Request) -> httpx2.Response:
        notice = is_cancellation(request.content)
        if notice and self.deaf:
            return httpx2.Response(202)
        try:
            async with asyncio.timeout(NOTICE if notice else None):
                return await self._exchange(request)
        except TimeoutError:
            if not notice:
                raise
            self.deaf = True
            return httpx2.Response(202)

    async def _exchange(self, request: httpx2.Request) -> httpx2.Response:
        response = await self.inner.handle_async_request(request)
        if request.method == "POST" or self.listens:
            self.statuses.append(response.status_code)
            self.failure = None  # of an earlier request: it says nothing about this one
            self.proxy_refusal = hop_of_answer(response.headers)
        if 300 <= response.status_code < 400:
            await response.aclose()
            return httpx2.Response(502, text="redirects are refused")
        if is_encoded(response):  # asked for without: some bytes could become very many
            await response.aclose()
            return httpx2.Response(502, text="compressed answers are refused")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        stream = Bounded(response.stream, self)
        if request.method == "GET" and self.listens:
            self._stream = stream
        answer = httpx2.Response(response.status_code, headers=response.headers, stream=stream)
        if self.settled and answer.headers.get("content-type", "").lower().startswith("application/json"):
            await answer.aread()  # here, because one that breaks off in the SDK's hands takes every other call along
        return answer

    def take_bytes(self) -> tuple[int, int]:
        """Bytes of bodies to and from the server since the last time; of calls that ran at once, together."""
        moved = self.bytes_in, self.bytes_out
        self.bytes_in = self.bytes_out = 0
        return moved

    @property
    def refused_credentials(self) -> bool:
        return bool(self.statuses) and self.statuses[-1] in (401, 403)


def is_cancellation(body: bytes) -> bool:
    """Whether this tells the server to stop working on a request."""
    return len(body) < 4096 and b'"notifications/cancelled"' in body and b'"id"' not in body


def is_encoded(response: httpx2.Response) -> bool:
    """Whether a body is compressed, though that was not asked for."""
    return response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


def lost_answer(failure: BaseException) -> httpx2.Response:
    """What the SDK is told of a request that failed on the way."""
    error = {"code": LOST, "message": in_words(failure)}
    return httpx2.Response(503, json={"jsonrpc": "2.0", "id": None, "error": error})


def in_words(failure: BaseException | None) -> str:
    """A connection that was lost, as the model reads it."""
    if not isinstance(failure, TunnelLost):
        return "The connection to the MCP server was lost."
    again = " The call may be tried again." if failure.may_retry else ""
    return f"The connection to the MCP server was lost ({failure.reason}, hop: {failure.hop}).{again}"


class Bounded(httpx2.AsyncByteStream):
    """A response body that counts, and ends in an error when it is too long. It comes in whole lines, mended."""

    def __init__(self, inner: httpx2.AsyncByteStream, observed: Observed) -> None:
        self._inner, self._observed = inner, observed
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        begun: list[bytes] = []
        try:
            async for data in self._inner:
                self.size += len(data)
                self._observed.bytes_out += len(data)
                if self.size > self._observed.max_bytes:
                    raise httpx2.ReadError("the answer is too large")
                whole = data.rfind(b"\n") + 1
                if whole:
                    yield mend_halves(b"".join([*begun, data[:whole]]))
                    begun.clear()
                begun.append(data[whole:])
            yield mend_halves(b"".join(begun))
        except httpx2.HTTPError as error:
            self._observed.failure = error
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


class Courier(httpx2.AsyncClient):
    """Calls `on_lost` when a message was not delivered, after whatever the credentials do about a refusal.

    The SSE transport sends nothing more then, but it would go on waiting for the answer.
    """

    on_lost: Callable[[], None]

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        delivered = request.method != "POST"
        try:
            response = await super().send(request, **options)
            delivered = delivered or response.status_code < 400
            return response
        finally:
            if not delivered:
                self.on_lost()


class Link:
    """A connection to one server. `open` first; `close` always."""

    def __init__(self, url: str, auth: httpx2.Auth | None, source: TransportSource, limits: Limits) -> None:
        self._url, self._auth, self._source, self._limits = url, auth, source, limits
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._client: Client | None = None
        self._inbox: Inbox | None = None
        self.observed: Observed | None = None

    async def open(self) -> None:
        """Connect and negotiate. Raises `LinkFailed`."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(ready), name="mcp link")
        try:
            await ready
        except BaseException:
            await self.close(goodbye=False)  # a server that was never met gets none
            raise

    @property
    def spent(self) -> bool:
        """Whether the session is over, so that a further call needs a new one: the link or its stream has ended, or
        the server has forgotten the session, which it tells by a 404."""
        ended = self._task is None or self._task.done() or (self._inbox is not None and self._inbox.ended)
        return ended or (self.observed is not None and self.observed.statuses[-1:] == [404])

    async def close(self, *, goodbye: bool = True) -> None:
        """End the session; bounded, and never raises for what the server does. Without a `goodbye` it is not told."""
        if self._task is None:
            return
        task, self._task = self._task, None
        try:
            if goodbye:
                self._leave.set()
                await asyncio.wait([task], timeout=GOODBYE)
        finally:
            if not task.done():
                if self.observed is not None:
                    self.observed.over = True
                task.cancel()
                await asyncio.wait([task], timeout=GOODBYE)

    async def list_tools(self) -> tuple[Listing, float | None]:
        """Every tool with a usable schema, the first of each name, and the server's cache hint in seconds.

        Raises `LinkFailed`.
        """
        malformed = self._inbox.malformed if self._inbox is not None else []
        malformed.clear()
        tools: dict[str, ListedTool] = {}
        repeated: list[str] = []
        before = self.observed.bytes_out if self.observed is not None else 0
        hint: float | None = None
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._guard(self._list_page(cursor))
            for tool in page.tools:
                if tool.name in tools:
                    repeated.append(tool.name[:64])
                else:
                    tools[tool.name] = ListedTool(tool.name, tool.description, tool.input_schema)
            if isinstance(ttl := getattr(page, "ttl_ms", None), int) and page.model_fields_set & {"ttl_ms"}:
                hint = ttl / 1000
            cursor = page.next_cursor
            if not cursor:
                break
            if self.observed is not None and self.observed.bytes_out - before > self._limits.response_bytes:
                raise LinkFailed("protocol", "the server's list of tools is too large")
        if malformed or repeated or cursor:
            log.warn(
                "tools of an mcp server left out",
                host=httpx2.URL(self._url).host,
                malformed=malformed[:SHOWN],
                repeated=repeated[:SHOWN],
                pages_unread=bool(cursor),
            )
        return tuple(tools.values()), hint

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Run a tool. Whatever goes wrong becomes an error result."""
        if self.observed is not None:
            self.observed.settled = not self.observed.listens
        try:
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:  # in the SDK's hands it would end the session
            return failed("The tool was not called: its arguments are not valid JSON.")
        try:
            # Leaving early tells the server: the SDK sends a cancellation.
            async with asyncio.timeout(self._limits.tool_call.total_seconds()):
                raw = await self._call(tool, arguments)
        except TimeoutError:
            return failed("The tool call timed out.")
        except MCPError as error:
            return failed(self._explain(error))
        except (ValidationError, ValueError):
            return failed("The MCP server sent a result that makes no sense.")
        except (httpx2.HTTPError, OSError, RuntimeError):
            return failed(self._lost())
        if raw.get("resultType") == "input_required":
            return failed("The tool asks for further input, which is not supported here.")
        return from_mcp(raw)

    def _explain(self, error: MCPError) -> str:
        if error.code == LOST:
            return str(error)
        if self.observed is not None and self.observed.refused_credentials:
            return "The MCP server refused the authorization token."
        if self.observed is not None and self.observed.failure is not None:
            return self._lost()
        if self._inbox is not None and self._inbox.ended:
            return self._lost()
        return f"The MCP server answered with an error: {str(error)[:500]}"

    def _lost(self) -> str:
        return in_words(self.observed.failure if self.observed is not None else None)

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        parameters = mcp_types.CallToolRequestParams(name=tool, arguments=arguments)
        request = mcp_types.CallToolRequest(params=parameters)
        try:
            return await self._send(request)
        except MCPError as error:
            if error.code != mcp_types.HEADER_MISMATCH:
                raise
        # Rejected before it ran: the server wants arguments mirrored into headers, which its listing explains.
        await self.list_tools()
        return await self._send(request)

    async def _send(self, request: mcp_types.CallToolRequest) -> dict[str, Any]:
        result = await self._session.send_request(request, RawResult)
        return dict(result.model_extra or {})

    @property
    def _session(self) -> ClientSession:
        if self._client is None:
            raise RuntimeError("the session has ended")
        return self._client.session

    async def _list_page(self, cursor: str | None) -> mcp_types.ListToolsResult:
        return await self._session.list_tools(params=mcp_types.PaginatedRequestParams(cursor=cursor))

    async def _guard(self, work: Coroutine[Any, Any, mcp_types.ListToolsResult]) -> mcp_types.ListToolsResult:
        try:
            async with asyncio.timeout(self._limits.list_tools.total_seconds()):
                return await work
        except (MCPError, httpx2.HTTPError, OSError, ValidationError, RuntimeError, TimeoutError) as error:
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> LinkFailed:
        failure = self._judge(error)
        failure.refusal = self.observed.proxy_refusal if self.observed is not None else None
        return failure

    def _judge(self, error: BaseException) -> LinkFailed:
        """The error as the caller may see it."""
        observed = self.observed
        cause = observed.failure if observed is not None and observed.failure is not None else error
        if observed is not None and observed.refused_credentials:
            return LinkFailed("authentication", "the server refused the credentials", cause)
        status = observed.statuses[-1] if observed is not None and observed.statuses else None
        if status is not None and status >= 400:
            return LinkFailed("protocol", f"the server answered with status {status}", cause)
        if isinstance(error, MCPError) and status is not None:
            return LinkFailed("protocol", "the server answered with an error", cause)
        if isinstance(error, ValidationError):
            return LinkFailed("protocol", "the server's answer makes no sense", cause)
        return LinkFailed("connection", "the server could not be reached", cause)

    # The task that owns the client.

    async def _hold(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._limits.list_tools.total_seconds()):
                    self._client = await self._connect(stack)
                if not ready.done():
                    ready.set_result(None)
                await self._leave.wait()
        except asyncio.CancelledError:
            ready.cancel()
            raise
        except Exception as error:  # the SDK wraps what happened in groups of groups
            if not ready.done():
                ready.set_exception(self._failure(innermost(error)))
            else:
                log.debug("mcp session ended badly", error=type(innermost(error)).__name__)
        finally:
            self._client = None

    async def _connect(self, stack: AsyncExitStack) -> Client:
        transport = await stack.enter_async_context(self._source())
        self.observed = Observed(transport, self._limits.response_bytes)
        http = self._http_client(self.observed, httpx2.AsyncClient)
        try:
            streams = streamable_http_client(
                self._url, http_client=http, max_sse_event_size=self._limits.response_bytes
            )
            return await stack.enter_async_context(Client(self._heard(streams), client_info=INFO, cache=None))
        except Exception:
            if not self.observed.statuses or self.observed.statuses[-1] not in SSE_FALLBACK:
                raise
        log.debug("falling back to the SSE transport", host=httpx2.URL(self._url).host)
        self.observed.statuses.clear()
        self.observed.listens = True
        streams = self._sse_streams(self.observed)
        return await stack.enter_async_context(
            Client(self._heard(streams), mode="legacy", client_info=INFO, cache=None)
        )

    @asynccontextmanager
    async def _heard(self, transport: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        """A transport whose messages pass through our inbox."""
        async with transport as (read, write):
            self._inbox = Inbox(read, httpx2.URL(self._url).host)
            yield self._inbox, write

    def _http_client(self, transport: Observed, kind: type[C]) -> C:
        headers = {"accept-encoding": "identity", "user-agent": f"qanat-gateway/{__version__}"}
        connect, read = self._limits.connect.total_seconds(), self._limits.tool_call.total_seconds()
        timeout = httpx2.Timeout(connect, read=read + 5)
        return kind(transport=transport, auth=self._auth, headers=headers, timeout=timeout, trust_env=False)

    @asynccontextmanager
    async def _sse_streams(self, observed: Observed) -> AsyncIterator[Any]:
        courier = self._http_client(observed, Courier)
        courier.on_lost = self._end
        async with sse_client(self._url, httpx_client_factory=lambda *_, **__: courier) as streams:
            yield streams

    def _end(self) -> None:
        if self._inbox is not None:
            self._inbox.end()


def innermost(error: BaseException) -> BaseException:
    """The first real error inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
