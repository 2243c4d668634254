"""Serves the samples by Streamable HTTP on loopback, each on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from qanat.samples import kb, tickets
from qanat.samples.database import Database

SAMPLES = {"tickets": tickets.make_server, "kb": kb.make_server}
START_TIMEOUT = 10.0


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
async def serve(data_dir: Path | None = None) -> AsyncIterator[Samples]:
    """Every sample, each with its database in `data_dir` or in memory."""
    running = Samples({})
    async with contextlib.AsyncExitStack() as stack:
        for name, make_server in SAMPLES.items():
            database = Database(name, data_dir / f"{name}.db" if data_dir else None)
            stack.callback(database.close)
            serving = serve_mcp(make_server(database), on_served=running.served.append)
            running.urls[name] = await stack.enter_async_context(serving)
        yield running


@contextlib.asynccontextmanager
async def serve_mcp(
    server: MCPServer, host: str = "127.0.0.1", port: int = 0, on_served: Callable[[Served], None] = lambda _: None
) -> AsyncIterator[str]:
    """An MCP server at `<URL yielded>/mcp`."""
    app = _timed(server.streamable_http_app(host=host), server.name, on_served)
    with socket.create_server((host, port)) as listener:
        # Without it an answer in two packets waits 40 ms for a delayed acknowledgement: asyncio sets it only on
        # sockets made with an explicit protocol number.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="on", ws="none", loop="none",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        running = _Server(config)
        task = asyncio.create_task(running.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await running.up.wait()
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            await task


def _timed(app: ASGIApp, name: str, on_served: Callable[[Served], None]) -> ASGIApp:
    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        await app(scope, receive, send)
        if scope["type"] == "http":
            on_served(Served(name, scope["method"], scope["path"], time.monotonic() - started))

    return timed


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (the command owns signals), telling when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()
