"""An MCP server with one of everything, on the official SDK, and a conversation that uses it all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mcp import types
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from pydantic import BaseModel

from tests.support.asgi import serve_asgi
from tests.support.planted import plant

ARGUMENT, RESULT = plant("argument"), plant("result")
SAMPLING = types.CreateMessageResult(
    role="assistant", content=types.TextContent(type="text", text="sampled"), model="none"
)


class Place(BaseModel):
    """What the server asks a person for."""

    city: str


class MemoryEventStore(EventStore):
    """Every event of every stream, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[StreamId, types.JSONRPCMessage | None]] = []
        self.replayed_after: list[EventId] = []

    async def store_event(self, stream_id: StreamId, message: types.JSONRPCMessage | None) -> EventId:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        self.replayed_after.append(last_event_id)
        position = int(last_event_id)
        stream_id = self.events[position - 1][0]
        for number, (stream, message) in enumerate(self.events[position:], position + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


class Bench:
    """The server and what a test wants to know of it."""

    def __init__(self) -> None:
        self.cancelled, self.waiting = asyncio.Event(), asyncio.Event()
        self.go_on = asyncio.Event()
        self.server = MCPServer("bench", instructions="for tests", log_level="WARNING")
        self._add_tools()

    def _add_tools(self) -> None:
        server = self.server

        @server.tool()
        def add(a: int, b: int) -> int:
            return a + b

        @server.tool()
        def reveal(secret: str) -> str:
            return f"{secret} {RESULT}"

        @server.tool()
        async def count(to: int, ctx: Context[Any, Any]) -> str:
            for n in range(1, to + 1):
                await ctx.report_progress(n, to, f"step {n}")
                await ctx.info(f"counted {n}")
            return f"counted to {to}"

        @server.tool()
        async def steps(ctx: Context[Any, Any]) -> str:
            await ctx.report_progress(1, 2)
            self.waiting.set()
            await self.go_on.wait()
            await ctx.report_progress(2, 2)
            return "all steps"

        @server.tool()
        async def ask_model(ctx: Context[Any, Any]) -> str:
            message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="hi"))
            answer = await ctx.session.create_message(messages=[message], max_tokens=10)
            return str(answer.model_dump_json(exclude_none=True))

        @server.tool()
        async def ask_person(ctx: Context[Any, Any]) -> str:
            answer = await ctx.elicit("where?", Place)
            return str(answer)

        @server.tool()
        async def hang() -> str:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "never"

        @server.resource("note://{name}")
        def note(name: str) -> str:
            return f"a note on {name}"

        @server.prompt()
        def greet(name: str) -> str:
            return f"Greet {name}."

    def running(self, **options: Any) -> contextlib.AbstractAsyncContextManager[str]:
        """The server on a port of its own: yields `http://127.0.0.1:port`."""
        return serve(self.server, **options)


@contextlib.asynccontextmanager
async def serve(server: MCPServer, legacy_sse: bool = False, **options: Any) -> AsyncIterator[str]:
    """Any server on a port of its own: yields `http://127.0.0.1:port`. `legacy_sse`: the wire of 2024-11-05."""
    app = server.sse_app(**options) if legacy_sse else server.streamable_http_app(**options)
    async with serve_asgi(app) as url:
        yield url


async def sample(context: object, params: object) -> types.CreateMessageResult:
    return SAMPLING


async def elicit(context: object, params: object) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"city": "Yazd"})


class Heard:
    """What a client's callbacks were told."""

    def __init__(self) -> None:
        self.logs: list[Any] = []
        self.progress: list[Any] = []

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append(params.data)

    async def hear_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))


def client_for(transport: Any, mode: str, heard: Heard) -> Client:
    """A client that answers what the server asks."""
    return Client(
        transport,
        mode=mode,
        sampling_callback=sample,
        elicitation_callback=elicit,
        logging_callback=heard.log,
        log_level="debug",
    )


async def converse(transport: Any, mode: str) -> dict[str, Any]:
    """Use everything the server has; what came of it."""
    heard = Heard()
    async with client_for(transport, mode, heard) as client:
        outcome: dict[str, Any] = {
            "version": client.protocol_version,
            "server": _plain(client.server_info),
            "tools": _plain(await client.list_tools()),
            "resources": _plain(await client.list_resource_templates()),
            "prompts": _plain(await client.list_prompts()),
            "prompt": _plain(await client.get_prompt("greet", {"name": "Ada"})),
            "resource": _plain(await client.read_resource("note://water")),
        }
        calls: list[tuple[str, dict[str, Any]]] = [
            ("add", {"a": 1, "b": 2}), ("add", {"a": "x"}), ("nothing", {}), ("count", {"to": 5}), ("ask_model", {}),
            ("ask_person", {}), ("reveal", {"secret": ARGUMENT}),
        ]  # fmt: skip
        for name, arguments in calls:
            outcome[f"{name} {arguments}"] = await _call(client, name, arguments, heard)
    outcome["logs"], outcome["progress"] = heard.logs, heard.progress
    return outcome


async def _call(client: Client, name: str, arguments: dict[str, Any], heard: Heard) -> Any:
    try:
        return _plain(await client.call_tool(name, arguments, progress_callback=heard.hear_progress))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _plain(value: BaseModel | None) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if value is not None else None
