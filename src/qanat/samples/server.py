"""Serves the samples by Streamable HTTP on loopback, each on a port of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from qanat import asgi
from qanat.samples import kb, tickets
from qanat.samples.database import Database

SAMPLES = {"tickets": tickets.make_server, "kb": kb.make_server}
GRACE = 1.0
"""Seconds that requests under way get at the end."""


@dataclass(frozen=True)
class Served:
    """One request a sample answered."""

    server: str
    method: str
    path: str
    seconds: float


@dataclass(frozen=True)
class Samples:
    """The running samples."""

    urls: dict[str, str]
    """Name to base URL, path left out."""
    served: list[Served] = field(default_factory=list)
    """What was asked of them so far, oldest first."""


@contextlib.asynccontextmanager
async def serve(data_dir: Path | None = None, ports: Mapping[str, int] | None = None) -> AsyncIterator[Samples]:
    """Every sample, each with its database in `data_dir` or in memory, at its port of `ports` or any."""
    running = Samples({})
    async with contextlib.AsyncExitStack() as stack:
        for name, make_server in SAMPLES.items():
            database = Database(name, data_dir / f"{name}.db" if data_dir else None)
            stack.callback(database.close)
            port = (ports or {}).get(name, 0)
            serving = serve_mcp(make_server(database), port=port, on_served=running.served.append)
            running.urls[name] = await stack.enter_async_context(serving)
        yield running


@contextlib.asynccontextmanager
async def serve_mcp(
    server: MCPServer, host: str = "127.0.0.1", port: int = 0, on_served: Callable[[Served], None] = lambda _: None
) -> AsyncIterator[str]:
    """An MCP server at `<URL yielded>/mcp`."""
    app = _timed(server.streamable_http_app(host=host), server.name, on_served)
    listener = asgi.bind(f"{host}:{port}")
    async with asgi.serving(app, listener, grace=GRACE, lifespan="on"):
        yield f"http://{host}:{listener.getsockname()[1]}"


def _timed(app: ASGIApp, name: str, on_served: Callable[[Served], None]) -> ASGIApp:
    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        await app(scope, receive, send)
        if scope["type"] == "http":
            on_served(Served(name, scope["method"], scope["path"], time.monotonic() - started))

    return timed
