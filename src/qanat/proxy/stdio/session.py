"""One MCP session over one child: which answer goes to which caller, and where unasked messages go.

A pipe carries everything on one line each; HTTP has a response per request and a stream for the rest. Request ids are
replaced on the way in, so that callers who share a child cannot collide, and put back on the way out.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from qanat.proxy.stdio.process import ChildProcess, Program, ProgramFailed

MAX_BACKLOG = 256 * 1024
"""Bytes of messages kept for a caller who has no stream open; older ones are dropped first."""
MAX_QUEUED = 256 * 1024
"""Bytes waiting for a slow caller at which its stream is ended: the child must not wait for it."""
INTERNAL_ERROR, SERVER_ENDED = -32603, "the MCP server process ended"
METHOD_NOT_FOUND = -32601
HANDSHAKE_ID = "handshake"
_BAD_REQUEST = (-32700, -32600, -32602, -32020, -32021, -32022)
_CANCELLED, _PROGRESS = "notifications/cancelled", "notifications/progress"


@dataclass(frozen=True, slots=True)
class Style:
    """How a POST wants its answer."""

    batch: bool
    stateless: bool
    headers: tuple[tuple[str, str], ...] = ()


class Exchange(Protocol):
    """One HTTP exchange, as the proxy's front hands it over."""

    def start(self, status: int, headers: list[tuple[str, str]], length: int | None) -> None:
        """Send the response head; `length` None streams."""
        ...

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """End the response cleanly."""
        ...

    def queued(self) -> int:
        """Bytes written that the caller has not taken yet."""
        ...


class Call:
    """A POST that waits for answers: one JSON document if that is all, else an event stream."""

    def __init__(self, exchange: Exchange, ids: list[int], style: Style) -> None:
        self._exchange, self._waiting, self._style = exchange, set(ids), style
        self._answers: list[dict[str, Any]] = []
        self._streaming = False
        self.done = asyncio.Event()

    def answer(self, wire_id: int, message: dict[str, Any]) -> None:
        """The child's answer to one of the requests. Nothing happens once the response has ended."""
        if self.done.is_set():
            return
        self._waiting.discard(wire_id)
        if self._streaming:
            self._exchange.write(event(message))
        else:
            self._answers.append(message)
        if not self._waiting:
            self._finish()

    def fail(self, own_ids: dict[int, Any], reason: str) -> bool:
        """Answer what is still waiting with an error. False when nothing was sent yet, which the front does better."""
        if not self._streaming and not self.done.is_set():
            return False
        for wire_id in sorted(self._waiting):
            error = {"code": INTERNAL_ERROR, "message": reason}
            self.answer(wire_id, {"jsonrpc": "2.0", "id": own_ids[wire_id], "error": error})
        return True

    def notify(self, message: dict[str, Any]) -> bool:
        """Something that belongs to no answer. False when this caller does not take it."""
        if self.done.is_set():
            return False
        if not self._streaming:
            self._streaming = True
            self._exchange.start(200, [*self._style.headers, *STREAM_HEADERS], None)
            for answer in self._answers:
                self._exchange.write(event(answer))
        self._exchange.write(event(message))
        if self._exchange.queued() > MAX_QUEUED:
            self._exchange.finish()
            self.done.set()
        return True

    def _finish(self) -> None:
        if self._streaming:
            self._exchange.finish()
        else:
            style = self._style
            body = json.dumps(self._answers if style.batch else self._answers[0], separators=(",", ":")).encode()
            status = http_status(self._answers[0]) if style.stateless and not style.batch else 200
            self._exchange.start(status, [*style.headers, ("Content-Type", "application/json")], len(body))
            self._exchange.write(body)
            self._exchange.finish()
        self.done.set()


STREAM_HEADERS = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache, no-transform")]


def is_request(message: dict[str, Any]) -> bool:
    """Whether a message wants an answer."""
    return "method" in message and "id" in message


def event(message: dict[str, Any]) -> bytes:
    """A message as one server-sent event."""
    return b"event: message\ndata: " + json.dumps(message, separators=(",", ":")).encode() + b"\n\n"


def http_status(message: dict[str, Any]) -> int:
    """The HTTP status of an answer in the stateless era, where errors have statuses of their own."""
    code = message.get("error", {}).get("code")
    if code is None:
        return 200
    return 404 if code == METHOD_NOT_FOUND else 400 if code in _BAD_REQUEST else 200


class Backlog:
    """Events that nobody hears yet, the newest `MAX_BACKLOG` bytes of them."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque()
        self._size = 0

    def add(self, event: bytes) -> None:
        self._events.append(event)
        self._size += len(event)
        while self._size > MAX_BACKLOG:
            self._size -= len(self._events.popleft())

    def take_all(self) -> Iterable[bytes]:
        """What is kept, oldest first; afterwards nothing is."""
        taken, self._events, self._size = self._events, deque(), 0
        return taken


class StdioSession:
    """One child and its callers. `shared` children have many callers, and none of them may be asked anything."""

    def __init__(self, shared: bool = False) -> None:
        self._shared = shared
        self._child = ChildProcess(self._hear, self._child_ended)
        self._next_id = 0
        self._waiting: dict[int, tuple[Any, Call]] = {}
        """Id on the pipe to the caller's own id and call."""
        self._calls: dict[Call, None] = {}
        self._progress: dict[str, tuple[Any, Call]] = {}
        self._replies: set[asyncio.Task[None]] = set()
        self._stream: Exchange | None = None
        self._backlog = Backlog()
        self._stream_ended = asyncio.Event()
        self.ended = asyncio.Event()
        self._handshake: asyncio.Future[dict[str, Any] | None] | None = None
        """The child's answer to the first `initialize` that it accepts; None where one was never sent."""

    @property
    def idle(self) -> bool:
        """Nobody is waiting for anything."""
        return not self._calls and self._stream is None

    async def start(self, program: Program) -> None:
        """Raises `ProgramFailed`."""
        await self._child.start(program)

    async def stop(self) -> None:
        """End the child; whoever waits gets an error or the end of its stream."""
        await self._child.stop()
        await asyncio.gather(*self._replies, return_exceptions=True)

    async def call(self, messages: list[dict[str, Any]], exchange: Exchange, style: Style) -> None:
        """Pass messages with at least one request on, and answer `exchange` when the child has. Cancelling this tells
        the child to stop working on them. Raises `ProgramFailed` before anything was sent to the caller."""
        requests = [message for message in messages if is_request(message)]
        first = self._next_id + 1
        self._next_id += len(requests)
        ids = list(range(first, self._next_id + 1))
        call = Call(exchange, ids, style)
        self._calls[call] = None
        tokens: list[str] = []
        wire_ids = iter(ids)
        try:
            for message in messages:
                if is_request(message):
                    wire = next(wire_ids)
                    self._waiting[wire] = (message["id"], call)
                    message = self._replace_token({**message, "id": wire}, wire, call, tokens)
                await self._child.send(message)
            await call.done.wait()
        except ProgramFailed as failed:
            own_ids = {wire: request["id"] for wire, request in zip(ids, requests, strict=True)}
            if not call.fail(own_ids, str(failed)):
                raise
        finally:
            self._calls.pop(call, None)
            for token in tokens:
                self._progress.pop(token, None)
            for wire in [wire for wire in ids if self._waiting.pop(wire, None) is not None]:
                await self._cancel(wire)

    async def initialize(self, message: dict[str, Any]) -> dict[str, Any]:
        """Shake hands with a shared child, once for all its callers; returns the child's answer.

        What the child refuses is its answer to that caller alone. Raises `ProgramFailed` when the child ends or does
        not answer within 30 s.
        """
        try:
            async with asyncio.timeout(30):
                while self._handshake is not None:
                    answer = await asyncio.shield(self._handshake)
                    if answer is not None and "result" in answer:
                        return answer
                return await self._shake_hands(message)
        except TimeoutError:
            raise ProgramFailed("did not answer initialize") from None

    async def _shake_hands(self, message: dict[str, Any]) -> dict[str, Any]:
        handshake: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._handshake = handshake
        try:
            await self._child.send({**message, "id": HANDSHAKE_ID})
        except BaseException:
            self._end_handshake(None)
            raise
        answer = await asyncio.shield(handshake)
        assert answer is not None
        return answer

    def _end_handshake(self, answer: dict[str, Any] | None) -> None:
        handshake = self._handshake
        if answer is None or "result" not in answer:
            self._handshake = None  # whoever comes next, or waits, tries its own
        if handshake is not None and not handshake.done():
            handshake.set_result(answer)

    async def tell(self, message: dict[str, Any]) -> None:
        """Pass on a notification, or an answer to the child's own request. Raises `ProgramFailed`."""
        method = message.get("method")
        if self._shared and method in (None, _CANCELLED, "notifications/initialized"):
            return  # ids of one caller mean nothing to the others; a caller that gives up closes its request
        if method == _CANCELLED:
            own_id = (message.get("params") or {}).get("requestId")
            wire = next((wire for wire, (own, _) in self._waiting.items() if own == own_id), None)
            if wire is None:
                return
            message = {**message, "params": {**message["params"], "requestId": wire}}
        await self._child.send(message)

    async def listen(self, exchange: Exchange, headers: list[tuple[str, str]]) -> None:
        """Hold the session's event stream open until the child ends or this is cancelled."""
        self._stream = exchange
        self._stream_ended.clear()
        exchange.start(200, [*headers, *STREAM_HEADERS], None)
        try:
            for kept in self._backlog.take_all():
                exchange.write(kept)
            await self._stream_ended.wait()
            exchange.finish()
        finally:
            if self._stream is exchange:
                self._stream = None

    @property
    def listening(self) -> bool:
        """Whether the session's one event stream is taken."""
        return self._stream is not None

    def _replace_token(self, message: dict[str, Any], wire: int, call: Call, tokens: list[str]) -> dict[str, Any]:
        """Make the progress token unique on the pipe, so that progress finds its way back to this call."""
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        if not isinstance(params, dict) or not isinstance(meta, dict) or "progressToken" not in meta:
            return message
        token = f"p{wire}"
        tokens.append(token)
        self._progress[token] = (meta["progressToken"], call)
        return {**message, "params": {**params, "_meta": {**meta, "progressToken": token}}}

    async def _cancel(self, wire_id: int) -> None:
        params = {"requestId": wire_id, "reason": "the caller went away"}
        await self._try_send({"jsonrpc": "2.0", "method": _CANCELLED, "params": params})

    def _hear(self, message: dict[str, Any]) -> None:
        if message.get("id") == HANDSHAKE_ID and self._handshake is not None and not self._handshake.done():
            self._end_handshake(message)
            if "result" in message:
                self._send_later({"jsonrpc": "2.0", "method": "notifications/initialized"})
        elif "method" not in message:
            found = self._waiting.pop(message.get("id", 0), None) if isinstance(message.get("id"), int) else None
            if found is not None:
                own_id, call = found
                call.answer(message["id"], {**message, "id": own_id})
        elif message["method"] == _PROGRESS:
            self._hear_progress(message)
        elif not self._shared:
            self._deliver(message)
        elif "id" in message:
            self._refuse(message)

    def _hear_progress(self, message: dict[str, Any]) -> None:
        params = message.get("params") or {}
        found = self._progress.get(str(params.get("progressToken")))
        if found is not None:
            token, call = found
            call.notify({**message, "params": {**params, "progressToken": token}})

    def _deliver(self, message: dict[str, Any]) -> None:
        """To the session's stream if there is one, else to the call that has waited longest, else kept for later."""
        if self._stream is not None:
            self._stream.write(event(message))
            if self._stream.queued() > MAX_QUEUED:
                self._stream_ended.set()
        elif not any(call.notify(message) for call in list(self._calls)):
            self._backlog.add(event(message))

    def _refuse(self, message: dict[str, Any]) -> None:
        """A shared child asks its client something, but has no client of its own."""
        error = {"code": METHOD_NOT_FOUND, "message": "this client answers no requests"}
        self._send_later({"jsonrpc": "2.0", "id": message["id"], "error": error})

    def _send_later(self, message: dict[str, Any]) -> None:
        reply = asyncio.create_task(self._try_send(message))
        self._replies.add(reply)
        reply.add_done_callback(self._replies.discard)

    async def _try_send(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(1):
                await self._child.send(message)
        except (ProgramFailed, TimeoutError):
            return

    def _child_ended(self) -> None:
        self.ended.set()
        self._stream_ended.set()
        if self._handshake is not None and not self._handshake.done():
            self._handshake.set_exception(ProgramFailed("ended before it answered initialize"))
            self._handshake.exception()  # nobody may be waiting for it any more
        for wire, (own_id, call) in list(self._waiting.items()):
            error = {"code": INTERNAL_ERROR, "message": SERVER_ENDED}
            call.answer(wire, {"jsonrpc": "2.0", "id": own_id, "error": error})
        self._waiting.clear()
