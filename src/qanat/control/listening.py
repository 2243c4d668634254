"""Listening: uvicorn over a socket we bound, without its signal handlers, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from qanat.control.config import TLSFiles, split_address

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than most balancers in front of us keep theirs."""


def bind(address: str) -> socket.socket:
    """A listening socket on `host:port`. Raises `OSError`."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=512)
    # asyncio leaves it off on sockets made like this: an answer in two packets would wait 40 ms for an acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (the command owns signals), telling when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # A TLS connection whose peer does not answer our goodbye would outlive the loop.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextlib.asynccontextmanager
async def listening(
    app: ASGIApp,
    listener: socket.socket,
    *,
    tls: TLSFiles | None = None,
    grace: float = 0,
    closing: asyncio.Event | None = None,
    beside: Coroutine[Any, Any, None] | None = None,
) -> AsyncIterator[None]:
    """Serve `app` until the block ends; then `closing` is set and requests under way get `grace` seconds.

    `beside` runs as long, and is cancelled.
    """
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=int(grace), loop="none", ws="none",
        ssl_certfile=tls.cert_file if tls else None,
        ssl_keyfile=tls.key_file if tls else None,
    )  # fmt: skip
    server = _Server(settings)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        chores = group.create_task(beside) if beside is not None else None
        try:
            await _first(server.up.wait(), serving)
            yield
        finally:
            if chores is not None:
                chores.cancel()
            if closing is not None:
                closing.set()
            server.should_exit = True


async def _first(up: Any, serving: asyncio.Task[None]) -> None:
    """Wait until the server is up; if it ends before that, raise what ended it."""
    waiter = asyncio.ensure_future(up)
    await asyncio.wait([waiter, serving], return_when=asyncio.FIRST_COMPLETED)
    if not waiter.done():
        waiter.cancel()
        await serving
