"""ASGI applications on a socket, for as long as a block lasts: the one place that knows uvicorn.

What it changes of uvicorn: signals are left to the command, the end is awaited instead of looked for ten times a
second, and no connection outlives the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import uvicorn
from starlette.types import ASGIApp

from qanat.config import split_address
from qanat.errors import ConfigInvalid

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than most balancers in front of us keep theirs."""
BACKLOG = 1024
DATE_EVERY = 1.0
"""Seconds between two looks at the clock for the `Date` header."""
CANCELLED_WITHIN = 5.0
"""Seconds an application may take to end after it was cancelled."""


class CertificateFiles(Protocol):
    """PEM files as each part's configuration names them: the chain, leaf first, and its key."""

    @property
    def cert_file(self) -> Path: ...
    @property
    def key_file(self) -> Path: ...


def bind(address: str) -> socket.socket:
    """A listening socket on `host:port` or `[v6]:port`. Raises `OSError`, and `ValueError` for another text."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # asyncio leaves it off on sockets made like this: an answer in two packets would wait 40 ms for an acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    listener: socket.socket,
    *,
    tls: CertificateFiles | None = None,
    grace: float = 0,
    lifespan: Literal["off", "on", "auto"] = "off",
    closing: asyncio.Event | None = None,
) -> AsyncIterator[None]:
    """Serve `app` until the block ends; then `closing` is set, and requests under way get `grace` seconds.

    After these they are cancelled and their connections cut. `lifespan` says whether the application's start and end
    are run ("auto": if it knows of them). The listener is closed with the block.

    Raises `ConfigInvalid` when `tls` names no certificate and its key.
    """
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan=lifespan, server_header=False, proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE, loop="none", ws="none",
        ssl_certfile=tls.cert_file if tls else None,
        ssl_keyfile=tls.key_file if tls else None,
    )  # fmt: skip
    try:
        _check(tls)
    except ConfigInvalid:
        listener.close()
        raise
    server = _Server(settings, grace)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"listener {listener.getsockname()}")
    try:
        await _first(server.up, task)
        yield
    finally:
        if closing is not None:
            closing.set()
        server.stop()
        try:
            await task
        finally:
            listener.close()


def _check(tls: CertificateFiles | None) -> None:
    """Raises `ConfigInvalid` with the file's name, which OpenSSL does not say."""
    if tls is None:
        return
    for key, file in (("tls.cert_file", tls.cert_file), ("tls.key_file", tls.key_file)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise ConfigInvalid([f"{key}: {file}: {error.strerror}"]) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert_file, tls.key_file)
    except ssl.SSLError as error:
        raise ConfigInvalid([f"tls: {tls.cert_file} and {tls.key_file} are no certificate and its key"]) from error


async def _first(up: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait until the server is up; if it ends before that, raise what ended it."""
    waiter = asyncio.ensure_future(up.wait())
    await asyncio.wait([waiter, task], return_when=asyncio.FIRST_COMPLETED)
    if not waiter.done():
        waiter.cancel()
        await task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which tells when it is up and ends as soon as it is told to."""

    def __init__(self, config: uvicorn.Config, grace: float) -> None:
        super().__init__(config)
        self.up, self._told, self._grace = asyncio.Event(), asyncio.Event(), grace
        self._here = self.server_state.connections = _Crowd()

    def stop(self) -> None:
        self.should_exit = True
        self._told.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's word for a lifespan that failed; here it would end the whole command
            raise RuntimeError("the application did not start") from None
        self.up.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), DATE_EVERY)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self._here):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), self._grace)
        await self._cut()
        await self.lifespan.shutdown()

    async def _drained(self) -> None:
        """Answers under way are finished and have left, and what the application does after them is done."""
        await self._here.gone.wait()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)

    async def _cut(self) -> None:
        """End what is left. A TLS connection whose peer does not answer our goodbye would outlive the loop."""
        tasks = set(self.server_state.tasks)
        for task in tasks:
            task.cancel("the time for a graceful end is over")
        for connection in list(self._here):
            connection.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCELLED_WITHIN)
        await asyncio.sleep(0)  # lets the cut connections tell their protocols


class _Crowd(set[Any]):
    """uvicorn's set of open connections, which tells when it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = asyncio.Event()
        self.gone.set()

    def add(self, connection: Any) -> None:
        super().add(connection)
        self.gone.clear()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        if not self:
            self.gone.set()
