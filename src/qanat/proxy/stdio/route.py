"""Streamable HTTP over stdio servers: the front that a route with `stdio` has instead of an upstream.

Handshake era: a session per `initialize`, one child each (or one for all with `instances: shared`). Stateless era: no
sessions, one child for all callers, POST only.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from qanat.config import Duration, Section
from qanat.proxy.policy.inspect import PARSE_ERROR, STATELESS_ERA, BodyRefused, parse_strictly
from qanat.proxy.stdio.process import Program, ProgramFailed
from qanat.proxy.stdio.session import INTERNAL_ERROR, Exchange, StdioSession, Style, is_request

SESSION_HEADER = "Mcp-Session-Id"
NO_HEADERS: tuple[tuple[str, str], ...] = ()


class StdioConfig(Section):
    """`stdio:` of a route."""

    command: tuple[str, ...] = Field(min_length=1)
    """Program and arguments; the program's path is used as it stands."""
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    """The child's whole environment."""
    cwd: Path | None = None
    instances: Literal["session", "shared"] = "session"
    max_instances: int = Field(16, ge=1, le=1024)
    idle_timeout: Duration = timedelta(minutes=10)
    """A session nobody uses for that long is ended; its next request gets 404, and the client starts again."""
    path: str = "/mcp"

    def program(self) -> Program:
        """What to run."""
        return Program(self.command, tuple(self.env.items()), str(self.cwd) if self.cwd else None)


@dataclass(frozen=True, slots=True)
class StdioRequest:
    """A request as the route needs it. Header names are lower case; `body` is complete."""

    method: str
    path: str
    """Without the query."""
    headers: dict[str, str]
    body: bytes = b""


@dataclass(eq=False)
class _Refused(Exception):
    status: int
    message: str
    rpc_code: int = -32600
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Slot:
    session: StdioSession
    last_used: float = field(default_factory=time.monotonic)


class StdioRoute:
    """All sessions of one route. `close` ends every child and waits for it."""

    def __init__(self, config: StdioConfig) -> None:
        self._config = config
        self._sessions: dict[str, _Slot] = {}
        self._shared: _Slot | None = None
        self._starting = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None
        self._closing = False

    async def handle(self, request: StdioRequest, exchange: Exchange) -> None:
        """Answer one request. Cancel this when the caller has gone."""
        try:
            await self._dispatch(request, exchange)
        except _Refused as refused:
            _answer_error(exchange, refused.status, refused.rpc_code, refused.message, refused.headers)
        except BodyRefused as refused:
            _answer_error(exchange, 400, refused.rpc_code, str(refused))
        except ProgramFailed as failed:
            retry = (("Retry-After", "1"),) if failed.retryable else NO_HEADERS
            _answer_error(exchange, failed.status, INTERNAL_ERROR, str(failed), retry)

    async def close(self) -> None:
        """End every child."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        slots = [*self._sessions.values(), *([self._shared] if self._shared else [])]
        self._sessions.clear()
        self._shared = None
        await asyncio.gather(*(slot.session.stop() for slot in slots))

    async def _dispatch(self, request: StdioRequest, exchange: Exchange) -> None:
        if request.path != self._config.path:
            raise _Refused(404, "Not found")
        stateless = request.headers.get("mcp-protocol-version", "") >= STATELESS_ERA
        if request.method == "POST":
            await self._post(request, exchange, stateless)
        elif stateless or self._config.instances == "shared" or request.method not in ("GET", "DELETE"):
            raise _Refused(405, "Method not allowed", headers=(("Allow", "POST"),))
        elif request.method == "GET":
            await self._listen(request, exchange)
        else:
            await self._delete(request, exchange)

    async def _post(self, request: StdioRequest, exchange: Exchange, stateless: bool) -> None:
        messages, batch = _read_body(request)
        if stateless or self._config.instances == "shared":
            slot, headers = await self._shared_slot(), NO_HEADERS
            if await self._answer_handshake(slot.session, messages, exchange):
                return
        else:
            slot, headers = await self._session_slot(request, messages)
        slot.last_used = time.monotonic()
        if not any(is_request(message) for message in messages):
            for message in messages:
                await slot.session.tell(message)
            exchange.start(202, [*headers], 0)
            exchange.finish()
            return
        try:
            await slot.session.call(messages, exchange, Style(batch, stateless, headers))
        finally:
            slot.last_used = time.monotonic()

    async def _answer_handshake(
        self, session: StdioSession, messages: list[dict[str, Any]], exchange: Exchange
    ) -> bool:
        """A shared child shakes hands once; whoever comes later gets the same answer."""
        if len(messages) != 1 or messages[0].get("method") != "initialize":
            return False
        answer = await session.initialize(messages[0])
        _answer_json(exchange, 200, {**answer, "id": messages[0].get("id")})
        return True

    async def _session_slot(
        self, request: StdioRequest, messages: list[dict[str, Any]]
    ) -> tuple[_Slot, tuple[tuple[str, str], ...]]:
        if len(messages) == 1 and messages[0].get("method") == "initialize":
            session_id = secrets.token_urlsafe(24)
            if len(self._sessions) >= self._config.max_instances:
                raise _Refused(503, "Too many sessions", INTERNAL_ERROR, (("Retry-After", "1"),))
            slot = self._sessions[session_id] = _Slot(StdioSession())
            try:
                await self._start(slot.session)
            except BaseException:
                self._sessions.pop(session_id, None)
                raise
            return slot, ((SESSION_HEADER, session_id),)
        return self._find(request), ()

    def _find(self, request: StdioRequest) -> _Slot:
        session_id = request.headers.get("mcp-session-id")
        if session_id is None:
            raise _Refused(400, "Mcp-Session-Id header is required")
        slot = self._sessions.get(session_id)
        if slot is None or slot.session.ended.is_set():
            self._sessions.pop(session_id, None)
            raise _Refused(404, "Session not found")
        return slot

    async def _shared_slot(self) -> _Slot:
        async with self._starting:
            if self._shared is None or self._shared.session.ended.is_set():
                slot = _Slot(StdioSession(shared=True))
                await self._start(slot.session)
                self._shared = slot
            return self._shared

    async def _start(self, session: StdioSession) -> None:
        if self._closing:
            raise _Refused(503, "Proxy is restarting", INTERNAL_ERROR, (("Retry-After", "1"),))
        await session.start(self._config.program())
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep(), name="stdio-sweeper")

    async def _listen(self, request: StdioRequest, exchange: Exchange) -> None:
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise _Refused(406, "Client must accept text/event-stream")
        slot = self._find(request)
        if slot.session.listening:
            raise _Refused(409, "This session has a stream already")
        try:
            await slot.session.listen(exchange, [])
        finally:
            slot.last_used = time.monotonic()

    async def _delete(self, request: StdioRequest, exchange: Exchange) -> None:
        slot = self._find(request)
        self._sessions.pop(request.headers["mcp-session-id"], None)
        await slot.session.stop()
        exchange.start(200, [], 0)
        exchange.finish()

    async def _sweep(self) -> None:
        limit = self._config.idle_timeout.total_seconds()
        while True:
            await asyncio.sleep(max(1.0, min(limit / 4, 30.0)))
            for session_id, slot in list(self._sessions.items()):
                unused = slot.session.idle and time.monotonic() - slot.last_used > limit
                if unused or slot.session.ended.is_set():
                    self._sessions.pop(session_id, None)
                    await slot.session.stop()


def _read_body(request: StdioRequest) -> tuple[list[dict[str, Any]], bool]:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise _Refused(415, "Content-Type must be application/json")
    document = parse_strictly(request.body)
    messages = document if isinstance(document, list) else [document]
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise BodyRefused("a JSON-RPC message is an object", rpc_code=PARSE_ERROR)
    return messages, isinstance(document, list)


def _answer_json(exchange: Exchange, status: int, document: dict[str, Any], *headers: tuple[str, str]) -> None:
    body = json.dumps(document, separators=(",", ":")).encode()
    exchange.start(status, [*headers, ("Content-Type", "application/json")], len(body))
    exchange.write(body)
    exchange.finish()


def _answer_error(
    exchange: Exchange, status: int, code: int, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    error = {"code": code, "message": message}
    _answer_json(exchange, status, {"jsonrpc": "2.0", "id": None, "error": error}, *headers)
