"""A control plane for tests: in a thread of its own, so that blocking SDK clients can talk to it.

One server serves many tests; each test gets an organization of its own (`Tenant`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import secrets
import ssl
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx2
from sqlalchemy import func, select

from qanat.control.config import ControlConfig
from qanat.control.operations import Operations
from qanat.control.operations.authentication import MANAGE_TUNNELS, SCOPES, digest
from qanat.control.operations.bootstrap import add_organization
from qanat.control.operations.context import Actor
from qanat.control.server import ControlServer, serve
from qanat.control.store.tables import AccessTokenRow, Table, TunnelRow

T = TypeVar("T")
BETA = "mcp-tunnels-2026-06-22"
OLD_BETA = "mcp-tunnels-2026-05-19"
HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": BETA}
EDGE_KEY = "edge-service-key-for-tests"
GATEWAY_KEY = "gateway-service-key-for-tests"
GENEROUS = {"requests_per_minute": 10**6, "token_reads_per_minute": 10**6, "exchanges_per_minute": 10**6}
GENEROUS |= {"admin_requests_per_minute": 10**6}
GENEROUS |= {"sign_ins_per_minute": 10**6, "playground_calls_per_minute": 10**6}


_UNVERIFIED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_UNVERIFIED.check_hostname = False
_UNVERIFIED.verify_mode = ssl.CERT_NONE


def plain_client(**options: Any) -> httpx2.Client:
    """A client that shares one context: making one for each would cost more than everything else a test does."""
    return httpx2.Client(timeout=30, verify=_UNVERIFIED, trust_env=False, **options)


class SteppedClock:
    """The machine's time plus what a test added."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.offset.total_seconds()

    def advance(self, **amount: float) -> None:
        self.offset += timedelta(**amount)


def control_config(data_dir: Path, **overrides: Any) -> ControlConfig:
    """A configuration for tests: port 0, generous rates, both service keys."""
    keys = [
        {"name": "edge", "role": "edge", "key": EDGE_KEY},
        {"name": "gateway", "role": "gateway", "key": GATEWAY_KEY},
    ]
    values = {"listen_addr": "127.0.0.1:0", "data_dir": data_dir, "service_keys": keys, "limits": GENEROUS}
    return ControlConfig.model_validate(values | overrides)


class ControlThread:
    """A control plane on an event loop in a thread. Use it as a context manager."""

    server: ControlServer

    def __init__(self, config: ControlConfig, **sources: Any) -> None:
        self._config, self._sources = config, sources
        self._up: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            async with serve(self._config, **self._sources) as self.server:
                self._up.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if self._up.done():
                raise
            self._up.set_exception(error)

    def __enter__(self) -> ControlThread:
        self._thread.start()
        self._up.result(timeout=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the control plane did not stop"

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def operations(self) -> Operations:
        return self.server.operations

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the server's loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def settle(self) -> None:
        """Let the line of the last answer be logged: it is written right after the answer."""
        self.run(asyncio.sleep(0))

    def served(self, recorder: Recorder) -> list[str]:
        """The requests in a recorded log, as `POST /v1/oauth/token 200`."""
        self.settle()
        return [f"{line['method']} {line['path']} {line['status']}" for line in recorder.requests]

    def new_tenant(self) -> Tenant:
        return self.run(self._new_tenant())

    async def _new_tenant(self) -> Tenant:
        context = self.operations.context
        async with context.database.write() as session:
            organization = await add_organization(session, context, "test")
        tenant = Tenant(self, organization.id, organization.default_workspace_id, "")
        return Tenant(
            self, organization.id, organization.default_workspace_id, await tenant.mint_async(SCOPES, kind="bootstrap")
        )

    async def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        async with self.operations.context.database.read() as session:
            return {
                table.name: [tuple(row) for row in (await session.execute(select(table))).all()]
                for table in Table.metadata.sorted_tables
            }


@dataclass(frozen=True)
class Tenant:
    """An organization on a shared control plane. `operator` has the rights of a bootstrap credential."""

    control: ControlThread
    organization_id: str
    workspace_id: str
    operator: str

    @property
    def url(self) -> str:
        return self.control.url

    def mint(self, scopes: frozenset[str] | set[str] = frozenset({MANAGE_TUNNELS}), **fields: Any) -> str:
        """A bearer token with these scopes, bound to the default workspace unless `workspace_id` says otherwise."""
        return self.control.run(self.mint_async(scopes, **fields))

    async def mint_async(self, scopes: frozenset[str] | set[str], kind: str = "tunnels_api_key", **fields: Any) -> str:
        value, context = f"sk-ant-oat01-{secrets.token_urlsafe(32)}", self.control.operations.context
        id = context.new_id("oat")
        values = {
            "sha256": digest(value),
            "id": id,
            "kind": kind,
            "name": "test",
            "organization_id": self.organization_id,
            "workspace_id": None if kind == "bootstrap" else self.workspace_id,
            "subject": "user_test" if kind == "bootstrap" else id,
            "scope": " ".join(sorted(scopes)),
            "created_at": context.now(),
        }
        async with context.database.write() as session:
            session.add(AccessTokenRow(**(values | fields)))
        return value

    @property
    def actor(self) -> Actor:
        """An operator, for calling operations directly."""
        return Actor("user_test", "bootstrap", self.organization_id, self.workspace_id, SCOPES)

    def http(self, token: str | None = None, **headers: str) -> httpx2.Client:
        """A bare HTTP client with the headers that every SDK sends; a header set to "" is left out."""
        given = HEADERS | {"authorization": f"Bearer {token or self.mint()}"} | headers
        headers = {name: value for name, value in given.items() if value}
        return plain_client(base_url=self.url, headers=headers)

    def bare(self) -> httpx2.Client:
        """A client that sends no header of its own."""
        return plain_client(base_url=self.url)

    def as_operator(self) -> httpx2.Client:
        return self.http(self.operator)

    def new_workspace(self, name: str = "second") -> str:
        return self.control.run(self.control.operations.workspaces.create(self.actor, name, None, {})).id

    def count_tunnels(self) -> int:
        return self.control.run(self._count_tunnels())

    async def _count_tunnels(self) -> int:
        query = select(func.count()).select_from(TunnelRow).where(TunnelRow.organization_id == self.organization_id)
        async with self.control.operations.context.database.read() as session:
            return (await session.execute(query)).scalar_one()


class Recorder(logging.Handler):
    """Keeps every log record as its whole text, fields included."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.requests: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if record.getMessage() == "request":
            self.requests.append(fields)
        self.lines.append(f"{record.name} {record.getMessage()} {fields!r} {record.exc_info!r}")


@contextlib.contextmanager
def recorded_logs() -> Iterator[Recorder]:
    """All logs of all libraries at their most talkative."""
    recorder, root = Recorder(), logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("qanat", "sqlalchemy.engine", "httpx2", "uvicorn"))]
    levels = [logger.level for logger in loggers]
    root.addHandler(recorder)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield recorder
    finally:
        root.removeHandler(recorder)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
