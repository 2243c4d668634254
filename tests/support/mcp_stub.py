"""An MCP server written by hand, for everything a well-made one does not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.asgi import serve_asgi

Block = dict[str, Any]
Handler = Callable[[Block], Awaitable[Response | Block]]
SEARCH = {"name": "search", "description": "Search", "inputSchema": {"type": "object"}}


@dataclass
class StubMCP:
    """Speaks the handshake era over plain JSON answers. `on` replaces what a method does.

    A handler gets the parameters and returns a result, or a whole HTTP response.
    """

    on: dict[str, Handler] = field(default_factory=dict)
    tools: list[Block] = field(default_factory=lambda: [SEARCH])
    session_id: str | None = None
    status: int | None = None
    """Answer everything with this status."""
    methods: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    http_methods: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def endpoint(self, request: Request) -> Response:
        self.http_methods.append(request.method)
        self.headers.append(request.headers)
        if self.status is not None:
            return Response("{}", self.status, {"location": "https://elsewhere.example/"})
        if request.method == "DELETE":
            self.ended.set()
            await self.on.get("DELETE", _agree)({})
            return Response()
        if request.method != "POST":
            return Response(status_code=405)
        message = json.loads(await request.body())
        method = message["method"]
        self.methods.append(method)
        if "id" not in message:
            if method == "notifications/cancelled":
                self.cancelled.set()
            return Response(status_code=202)
        outcome = await self._answer(method, message.get("params") or {})
        if isinstance(outcome, Response):
            return outcome
        key = "error" if "code" in outcome else "result"
        headers = {"mcp-session-id": self.session_id} if self.session_id else {}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], key: outcome}, headers=headers)

    async def _answer(self, method: str, parameters: Block) -> Response | Block:
        if method in self.on:
            return await self.on[method](parameters)
        if method == "initialize":
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "stub", "version": "1"},
            }
        if method == "tools/list":
            return {"tools": self.tools}
        if method == "tools/call":
            return {"content": [{"type": "text", "text": f"{parameters['name']} ran"}]}
        return {"code": -32601, "message": f"no method {method}"}

    async def hang(self, _: Block) -> Block:
        """A tool call that never ends."""
        self.called.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def _agree(_: Block) -> Block:
    return {}


@asynccontextmanager
async def stub_mcp(**fields: Any) -> AsyncIterator[StubMCP]:
    """A stub that listens; its `url` is the MCP endpoint."""
    stub = StubMCP(**fields)
    routes = [Route("/mcp", stub.endpoint, methods=["GET", "POST", "DELETE"])]
    async with serve_asgi(Starlette(routes=routes)) as url:
        stub.url = f"{url}/mcp"
        yield stub


async def cut(_: Block) -> Response:
    """A connection that breaks in the middle of the answer."""

    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"jsonrpc"', "more_body": True})

    return Broken()
