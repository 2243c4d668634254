"""An MCP server of the HTTP+SSE transport, written by hand: its stream can end, its messages can be refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.support.asgi import serve_asgi
from tests.support.mcp_stub import SEARCH

Block = dict[str, Any]
OnCall = Callable[[Block], Awaitable[Block | Response | None]]
RESULTS: dict[str, Block] = {
    "initialize": {
        "protocolVersion": "2024-11-05",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "old", "version": "1"},
    },
    "tools/list": {"tools": [SEARCH]},
}


@dataclass
class SSEStub:
    """`on_call` says what comes of a tool call: a result, None to end the stream, a response to refuse the message."""

    on_call: OnCall
    stream_status: int = 200
    methods: list[str] = field(default_factory=list)
    url: str = ""
    _streams: list[asyncio.Queue[bytes | None]] = field(default_factory=list)

    async def listen(self, _: Request) -> Response:
        if self.stream_status != 200:
            return Response(status_code=self.stream_status)
        frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        frames.put_nowait(b"event: endpoint\ndata: /messages/%d\n\n" % len(self._streams))
        self._streams.append(frames)

        async def body() -> AsyncIterator[bytes]:
            while (frame := await frames.get()) is not None:
                yield frame

        return StreamingResponse(body(), media_type="text/event-stream")

    async def receive(self, request: Request) -> Response:
        message = await request.json()
        self.methods.append(message["method"])
        if "id" not in message:
            return Response(status_code=202)
        called = message["method"] == "tools/call"
        outcome = await self.on_call(message["params"]) if called else RESULTS[message["method"]]
        if isinstance(outcome, Response):
            return outcome
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": outcome})
        frame = f"event: message\ndata: {answer}\n\n".encode() if outcome is not None else None
        self._streams[request.path_params["session"]].put_nowait(frame)
        return Response(status_code=202)


@asynccontextmanager
async def sse_stub(
    on_call: Callable[[Block], Awaitable[Block | Response | None]], **fields: Any
) -> AsyncIterator[SSEStub]:
    """A stub that listens; its `url` is where the stream is."""
    stub = SSEStub(on_call, **fields)
    routes = [
        Route("/sse", stub.listen, methods=["GET"]),
        Route("/messages/{session:int}", stub.receive, methods=["POST"]),
    ]
    async with serve_asgi(Starlette(routes=routes)) as url:
        stub.url = f"{url}/sse"
        yield stub
