"""Transactions over SQLite or PostgreSQL.

`write()` is one transaction that may change things, `read()` a snapshot. SQLite has one writer, so writes queue on a
lock here and start with BEGIN IMMEDIATE; PostgreSQL writers meet on row locks that operations take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from qanat.control.errors import StoreUnavailable

BUSY_TIMEOUT = 15.0
"""Seconds that a write waits for its turn, and then a SQLite statement for another process's write."""
POOL_SIZE = 10
_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


class Database:
    """Engines and sessions. Use `await close()` when done."""

    def __init__(self, url: str) -> None:
        self.url = async_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writing = asyncio.Lock()
        if self.is_sqlite:
            _create_private(self.url)
            self._writer = _sqlite_engine(self.url, begin="BEGIN IMMEDIATE", pool_size=1)
            self._reader = _sqlite_engine(self.url, begin="BEGIN", pool_size=4)
        else:
            self._writer = self._reader = create_async_engine(
                self.url,
                pool_size=POOL_SIZE,
                max_overflow=0,
                pool_timeout=BUSY_TIMEOUT,
                pool_pre_ping=True,
                hide_parameters=True,
                connect_args={"timeout": BUSY_TIMEOUT, "command_timeout": 30},
            )

    @property
    def engine(self) -> AsyncEngine:
        """The engine that may write: for migrations."""
        return self._writer

    @property
    def reader(self) -> AsyncEngine:
        """The engine for long looks: with SQLite, nobody who writes waits for its transactions."""
        return self._reader

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction, committed on leaving and rolled back on an exception. Raises `StoreUnavailable`."""
        async with AsyncExitStack() as stack:
            if self.is_sqlite:
                try:
                    async with asyncio.timeout(BUSY_TIMEOUT):
                        await stack.enter_async_context(self._writing)
                except TimeoutError:
                    raise StoreUnavailable from None  # else each would wait for all before it, one after the other
            async with self._session(self._writer) as session, session.begin():
                yield session

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session to read with. Raises `StoreUnavailable`."""
        async with self._session(self._reader) as session:
            yield session

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
        try:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                yield session
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise StoreUnavailable from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise StoreUnavailable from error
            raise _without_parameters(error) from None

    async def close(self) -> None:
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


def _without_parameters(error: StatementError) -> StatementError:
    """The same error, its statement's parameters forgotten: they may be secrets, and tracebacks are logged."""
    error.hide_parameters = True
    return error


def _create_private(url: URL) -> None:
    """Make the file before SQLite does, for its owner alone; the files beside it inherit that."""
    if url.database and url.database != ":memory:":
        Path(url.database).touch(mode=0o600, exist_ok=True)


def async_url(url: str) -> URL:
    """`url` with the asynchronous driver for its database. Raises `ValueError` for other databases."""
    parsed = make_url(url)
    backend = parsed.drivername.split("+")[0]
    if backend not in _DRIVERS:
        raise ValueError("database_url must start with postgresql:// or sqlite:///")
    return parsed.set(drivername=_DRIVERS[backend])


def _sqlite_engine(url: URL, *, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT, "isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Any) -> None:
        # The driver's own BEGIN is deferred: a write would then fail instead of waiting its turn.
        connection.exec_driver_sql(begin)

    return engine


def insert_into(session: AsyncSession, table: type[Any]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that may say what to do on conflict: each database has its own."""
    return postgresql.insert(table) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(table)


async def insert_new(session: AsyncSession, table: type[Any], **values: object) -> bool:
    """Insert a row unless one with the same key exists. Returns whether it was inserted."""
    result = await session.execute(insert_into(session, table).values(**values).on_conflict_do_nothing())
    return bool(getattr(result, "rowcount", 0) == 1)
