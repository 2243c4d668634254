"""Serves the samples by Streamable HTTP on loopback, each on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import MCPServer

from qanat.samples import kb, tickets
from qanat.samples.database import Database

SAMPLES = {"tickets": tickets.make_server, "kb": kb.make_server}
START_TIMEOUT = 10.0


@contextlib.asynccontextmanager
async def serve(data_dir: Path | None = None) -> AsyncIterator[dict[str, str]]:
    """Every sample, each with its database in `data_dir` or in memory; yields name to base URL, path left out."""
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name, make_server in SAMPLES.items():
            database = Database(name, data_dir / f"{name}.db" if data_dir else None)
            stack.callback(database.close)
            urls[name] = await stack.enter_async_context(serve_mcp(make_server(database)))
        yield urls


@contextlib.asynccontextmanager
async def serve_mcp(server: MCPServer, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """An MCP server at `<URL yielded>/mcp`."""
    with socket.create_server((host, port)) as listener:
        config = uvicorn.Config(
            server.streamable_http_app(host=host), log_config=None, access_log=False, ws="none", loop="none",
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
