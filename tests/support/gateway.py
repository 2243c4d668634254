"""A gateway under test: scripted models, MCP servers, and a control plane that is two dicts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qanat.api.internal import Change, Principal, TunnelRecord
from qanat.config import validate
from qanat.gateway.config import GatewayConfig
from qanat.gateway.demo_model import as_events
from qanat.gateway.server import Gateway, serve
from qanat.gateway.sse import encode_event
from qanat.ids import OrganizationID, WorkspaceID
from tests.support.asgi import serve_asgi
from tests.support.planted import remember

KEY = remember("sk-qanat-test")
Block = dict[str, Any]


def principal(name: str = "a", *, scopes: frozenset[str] = frozenset({"workspace:inference"})) -> Principal:
    """A caller of organization and workspace `name`."""
    return Principal(
        organization_id=OrganizationID(f"org_{name}"),
        workspace_id=WorkspaceID(f"wrkspc_{name}"),
        scopes=scopes,
        subject=f"apikey_{name}",
        kind="api_key",
    )


@dataclass
class DictControl:
    """Answers the gateway's questions from two dicts."""

    principals: dict[str, Principal] = field(default_factory=lambda: {KEY: principal()})
    tunnels: dict[str, TunnelRecord] = field(default_factory=dict)

    async def authenticate(self, credential: str, workspace_id: WorkspaceID | None = None) -> Principal | None:
        return self.principals.get(credential)

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        return self.tunnels.get(domain)

    async def changes(self, after: int | None) -> AsyncIterator[Change]:
        """Nothing ever changes here, as far as anybody is told."""
        await asyncio.Event().wait()
        yield Change(cursor=1, kind="reset")


def text(value: str) -> Block:
    return {"type": "text", "text": value}


def use(name: str, arguments: Mapping[str, Any] | None = None, id: str = "toolu_01abc") -> Block:
    return {"type": "tool_use", "id": id, "name": name, "input": dict(arguments or {})}


Reply = Sequence[Block] | Callable[[Request], Response]
"""Content blocks, or whatever makes a response of its own."""


@dataclass
class ScriptedModel:
    """A Messages API without MCP that answers from a script; the last entry repeats."""

    script: list[Reply] = field(default_factory=list)
    bodies: list[Block] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=lambda: {"input_tokens": 10, "output_tokens": 20})
    stop_reason: str | None = None
    url: str = ""

    def app(self) -> Starlette:
        async def messages(request: Request) -> Response:
            self.raw.append(await request.body())
            self.bodies.append(json.loads(self.raw[-1]))
            self.headers.append(request.headers)
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if callable(reply):
                return reply(request)
            return StreamingResponse(self._events(reply), media_type="text/event-stream")

        async def count_tokens(request: Request) -> Response:
            self.bodies.append(json.loads(await request.body()))
            return JSONResponse({"input_tokens": len(json.dumps(self.bodies[-1])) // 4})

        routes = [Route("/v1/messages", messages, methods=["POST"])]
        routes.append(Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]))
        return Starlette(routes=routes)

    async def _events(self, blocks: Sequence[Block]) -> AsyncIterator[bytes]:
        for event in as_events("stub", blocks, self.usage["input_tokens"]):
            if event["type"] == "message_delta":
                event["usage"] = {"output_tokens": self.usage["output_tokens"]}
                if self.stop_reason is not None:
                    event["delta"]["stop_reason"] = self.stop_reason
            yield encode_event(event)


class ReflexModel(ScriptedModel):
    """A model whose answer follows from the request alone, so that any number of clients may talk to it.

    `one`, `two`, `mixed` and `forever` in the last question say what to call; a result is answered with `Done <it>`.
    """

    def app(self) -> Starlette:
        self.script = [self.react]
        return super().app()

    def react(self, _: Request) -> Response:
        return StreamingResponse(self._events(self.decide(self.bodies[-1])), media_type="text/event-stream")

    def decide(self, body: Block) -> list[Block]:
        last = body["messages"][-1]["content"]
        results = [block for block in last if isinstance(block, dict) and block["type"] == "tool_result"]
        words = json.dumps(next(message for message in body["messages"] if message["role"] == "user"))
        rounds = sum(message["role"] == "assistant" for message in body["messages"])
        if results and not ("forever" in words and rounds < 13):
            return [text("Done " + json.dumps(results[-1]["content"]))]
        asked = [word for word in ("one", "two", "mixed", "forever") if word in words]
        if not asked or (rounds and not results):
            return [text("Nothing to do")]
        calls = {"two": ["wiki_search"] * 2, "mixed": ["weather", "wiki_search"]}.get(asked[0], ["wiki_search"])
        return [use(name, {"q": f"q{index}"}, f"toolu_{rounds}{index}") for index, name in enumerate(calls)]


@asynccontextmanager
async def reflex_model() -> AsyncIterator[ScriptedModel]:
    """A reflex model that listens."""
    model = ReflexModel()
    async with serve_asgi(model.app()) as url:
        model.url = url
        yield model


@asynccontextmanager
async def scripted_model(*script: Reply) -> AsyncIterator[ScriptedModel]:
    """A scripted model that listens."""
    model = ScriptedModel(list(script))
    async with serve_asgi(model.app()) as url:
        model.url = url
        yield model


@dataclass
class Wiki:
    """An MCP server with one tool, `search`, that remembers its calls and what HTTP brought them."""

    calls: list[str] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    wait_for: int = 1
    """Calls that must run at once before any answers."""
    url: str = ""
    protection: dict[str, Any] = field(default_factory=dict)
    """`auth` and `token_verifier` of a server that asks for sign-in itself."""

    def reset(self) -> None:
        """Forget everything."""
        self.calls.clear()
        self.requests.clear()
        self.methods.clear()
        self.running = self.most_running = 0
        self.wait_for = 1
        self._together = asyncio.Event()

    def __post_init__(self) -> None:
        self._together = asyncio.Event()

    def server(self) -> MCPServer:
        server = MCPServer("wiki", **self.protection)

        @server.tool(description="Search the wiki")
        async def search(q: str) -> str:
            self.calls.append(q)
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            if self.running >= self.wait_for:
                self._together.set()
            await self._together.wait()
            self.running -= 1
            return f"found {q}"

        return server

    def app(self) -> Any:
        inner = self.server().streamable_http_app()

        async def recording(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                request = Request(scope)
                self.requests.append((scope["method"], request.headers))
                if method := request.headers.get("mcp-method"):
                    self.methods.append(method)
            await inner(scope, receive, send)

        return recording


@asynccontextmanager
async def wiki_server(**protection: Any) -> AsyncIterator[Wiki]:
    """A wiki that listens on loopback; its `url` is the MCP endpoint."""
    wiki = Wiki(protection=protection)
    async with serve_asgi(wiki.app()) as url:
        wiki.url = f"{url}/mcp"
        yield wiki


def gateway_config(model_url: str | None = None, **changes: Any) -> GatewayConfig:
    """A configuration for loopback: one Anthropic model `stub` if there is a URL, else the demo model."""
    models: dict[str, Any] = {"qanat-demo": {"upstream": "demo"}}
    if model_url is not None:
        models["stub"] = {"upstream": "anthropic", "base_url": model_url, "api_key": "upstream-key"}
    egress = {"mode": "allow_list", "hosts": ["127.0.0.1"], "http_hosts": ["127.0.0.1"], "allowed_ips": ["127.0.0.0/8"]}
    data: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "control": {"url": "http://127.0.0.1:1", "service_key": "unused"},
        "models": models,
        "direct_egress": egress,
        "tool_cache": "0",
        "shutdown_timeout": "1s",
    }
    return validate(GatewayConfig, {**data, **changes})


@asynccontextmanager
async def running_gateway(
    model_url: str | None = None, control: DictControl | None = None, **changes: Any
) -> AsyncIterator[Gateway]:
    """A gateway on a free port."""
    async with serve(gateway_config(model_url, **changes), control=control or DictControl()) as gateway:
        yield gateway
