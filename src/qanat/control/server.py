"""The control plane's process: opens the store, makes what is missing, listens.

`serve(config)` is an async context manager, so the development stack and tests run it in their own process on port 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError

from qanat import asgi
from qanat.control.config import ControlConfig, ServiceKey
from qanat.control.metrics import Metrics, metrics_app
from qanat.control.operations import Operations, make_operations
from qanat.control.operations.bootstrap import Bootstrapped, bootstrap, migrate
from qanat.control.operations.context import Context
from qanat.control.rest.app import make_app
from qanat.control.rest.internal import ServiceKeys
from qanat.control.store.database import Database
from qanat.control.store.vault import Vault
from qanat.errors import ConfigInvalid
from qanat.logger import get_logger
from qanat.wire.addresses import join_host_port

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
    metrics_address: tuple[str, int] | None = None

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
        operations.single_sign_on.load_files()
        metrics = Metrics()
        async with contextlib.AsyncExitStack() as stack:
            listener = stack.enter_context(contextlib.closing(asgi.bind(config.listen_addr)))
            host, port = listener.getsockname()[:2]
            scheme = "https" if config.tls else "http"
            url = config.public_url or f"{scheme}://{join_host_port(host, port)}"
            operations.context.public_url = url.rstrip("/")
            closing = asyncio.Event()
            metrics_address = await _serve_metrics(stack, config, metrics)
            app = make_app(operations, service_keys, closing, metrics)
            grace = config.shutdown_timeout.total_seconds()
            await stack.enter_async_context(asgi.serving(app, listener, tls=config.tls, grace=grace, closing=closing))
            await stack.enter_async_context(beside(operations.housekeeping.run()))
            _log_policy(config)
            log.info("listening", address=f"{host}:{port}", url=url)
            yield ControlServer(host, port, url, operations, bootstrapped, metrics_address)
        log.info("stopped")


async def _serve_metrics(
    stack: contextlib.AsyncExitStack, config: ControlConfig, metrics: Metrics
) -> tuple[str, int] | None:
    """`/metrics` and `/healthz` on an address that clients do not reach."""
    if config.metrics_addr is None:
        return None
    listener = asgi.bind(config.metrics_addr)
    await stack.enter_async_context(asgi.serving(metrics_app(metrics), listener))
    host, port = listener.getsockname()[:2]
    return host, port


@contextlib.asynccontextmanager
async def beside(chores: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `chores` for as long as the block lasts; if they fail, so does the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(chores)
        try:
            yield
        finally:
            task.cancel()


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
