"""The control plane's process: opens the store, makes what is missing, listens.

`serve(config)` is an async context manager, so the development stack and tests run it in their own process on port 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError
from starlette.types import ASGIApp

from qanat.control.config import ControlConfig, ServiceKey, split_address
from qanat.control.operations import Operations, make_operations
from qanat.control.operations.bootstrap import Bootstrapped, bootstrap, migrate
from qanat.control.operations.context import Context
from qanat.control.rest.app import make_app
from qanat.control.rest.internal import ServiceKeys
from qanat.control.store.database import Database
from qanat.control.store.vault import Vault
from qanat.errors import ConfigInvalid
from qanat.log import get_logger

MIN_SERVICE_KEY = 16
log = get_logger("qanat.control")


@dataclass(frozen=True)
class ControlServer:
    """A running control plane."""

    host: str
    port: int
    url: str
    operations: Operations
    bootstrapped: Bootstrapped

    @property
    def credential(self) -> SecretStr:
        """The bootstrap credential. Raises `LookupError` when it is disabled."""
        if self.bootstrapped.credential is None:
            raise LookupError("the bootstrap credential is disabled")
        return self.bootstrapped.credential


@contextlib.asynccontextmanager
async def serve(config: ControlConfig, **sources: Any) -> AsyncIterator[ControlServer]:
    """A control plane, listening until the block ends. Raises `ConfigInvalid`, `StoreUnavailable`, `OSError`.

    `sources` replaces what `Context` takes from the machine (`clock`, `random_bytes`, `make_label`).
    """
    service_keys = load_service_keys(config)
    async with open_operations(config, **sources) as (operations, bootstrapped):
        with contextlib.closing(_bind(config)) as listener:
            host, port = listener.getsockname()[:2]
            scheme = "https" if config.tls else "http"
            url = config.public_url or f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            operations.context.public_url = url.rstrip("/")
            closing = asyncio.Event()
            app = make_app(operations, service_keys, closing)
            async with _running(app, config, listener, closing, operations.housekeeping.run()):
                _log_policy(config)
                log.info("listening", address=f"{host}:{port}", url=url)
                yield ControlServer(host, port, url, operations, bootstrapped)
        log.info("stopped")


@contextlib.asynccontextmanager
async def open_operations(config: ControlConfig, **sources: Any) -> AsyncIterator[tuple[Operations, Bootstrapped]]:
    """The operations over the configured store, migrated and bootstrapped. For the server and for local commands."""
    async with open_database(config) as database:
        context = Context(config=config, database=database, vault=_vault(sources), **sources)
        found = await bootstrap(context)
        operations = make_operations(context)
        try:
            yield operations, found
        finally:
            await operations.close()


@contextlib.asynccontextmanager
async def open_database(config: ControlConfig) -> AsyncIterator[Database]:
    """The configured database, its schema the newest. Raises `ConfigInvalid`, `StoreUnavailable`."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        database = Database(database_url(config))
    except (OSError, ValueError, ArgumentError) as error:
        raise ConfigInvalid([f"data_dir or database_url: {_plainly(error)}"]) from None
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


def _plainly(error: Exception) -> str:
    """An error's text, but none that could repeat the database's password."""
    return "not a database URL" if isinstance(error, ArgumentError) else getattr(error, "strerror", None) or str(error)


def _log_policy(config: ControlConfig) -> None:
    """Whatever the strict fetch policy was relaxed by stands in the log."""
    for name, value in config.federation.fetch_policy:
        if value:
            log.warn("fetch policy relaxed", by=name, value=[str(item) for item in value])


def _vault(sources: dict[str, Any]) -> Vault:
    random_bytes: Callable[[int], bytes] = sources.get("random_bytes", secrets.token_bytes)
    return Vault(random_bytes)


def database_url(config: ControlConfig) -> str:
    """Raises `ConfigInvalid`."""
    if config.database_url is not None:
        return config.database_url.get_secret_value()
    if config.database_url_file is not None:
        return _read_secret(config.database_url_file, "database_url_file")
    return f"sqlite:///{config.data_dir / 'control.db'}"


def load_service_keys(config: ControlConfig) -> ServiceKeys:
    """Raises `ConfigInvalid` for a missing or short key."""
    pairs: list[tuple[ServiceKey, str]] = []
    for index, key in enumerate(config.service_keys):
        where = f"service_keys.{index}"
        value = key.key.get_secret_value() if key.key else _read_secret(key.key_file or Path(), f"{where}.key_file")
        if len(value) < MIN_SERVICE_KEY:
            raise ConfigInvalid([f"{where}: a service key has at least {MIN_SERVICE_KEY} characters"])
        pairs.append((key, value))
    return ServiceKeys(pairs)


def _read_secret(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid([f"{where}: {path}: {getattr(error, 'strerror', 'not text')}"]) from None


def _bind(config: ControlConfig) -> socket.socket:
    host, port = split_address(config.listen_addr)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=512)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio leaves it off on sockets made like this
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
async def _running(
    app: ASGIApp,
    config: ControlConfig,
    listener: socket.socket,
    closing: asyncio.Event,
    housekeeping: Coroutine[Any, Any, None],
) -> AsyncIterator[None]:
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, proxy_headers=False,
        timeout_keep_alive=75, timeout_graceful_shutdown=int(config.shutdown_timeout.total_seconds()),
        loop="none", ws="none",
        ssl_certfile=config.tls.cert_file if config.tls else None,
        ssl_keyfile=config.tls.key_file if config.tls else None,
    )  # fmt: skip
    server = _Server(settings)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        chores = group.create_task(housekeeping)
        try:
            await _first(server.up.wait(), serving)
            yield
        finally:
            chores.cancel()
            closing.set()
            server.should_exit = True


async def _first(up: Any, serving: asyncio.Task[None]) -> None:
    """Wait until the server is up; if it ends before that, raise what ended it."""
    waiter = asyncio.ensure_future(up)
    await asyncio.wait([waiter, serving], return_when=asyncio.FIRST_COMPLETED)
    if not waiter.done():
        waiter.cancel()
        await serving
