"""One HTTP exchange: a message streamed or whole, while watching whether the caller is still there.

Errors before the first event are plain HTTP answers, later ones an `error` event. A caller who leaves takes everything
done on its behalf along: the work is cancelled, and with it the model's stream and the tool calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from qanat.gateway.errors import APIError, internal
from qanat.gateway.loop import Emit
from qanat.gateway.sse import encode_event, encode_events
from qanat.gateway.turn import Event, Turn
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
STALLED = 60.0
"""Seconds a caller may take nothing of an answer; then it counts as gone."""
PIECE = 64 * 1024
"""Bytes handed on at once: a caller on a slow line takes pieces, where it would take too long over the whole."""
PING = encode_event({"type": "ping"})


class CallerStalled(Exception):
    """The caller is still connected, but takes nothing any more."""


def impatient(send: Send) -> Send:
    """`send` that gives up on a caller who takes nothing. Raises `CallerStalled`."""

    async def bounded(message: Message) -> None:
        body = message.get("body", b"")
        for start in range(0, len(body) - PIECE, PIECE):
            await timed({**message, "body": body[start : start + PIECE], "more_body": True})
        last = body[max(0, (len(body) - 1) // PIECE * PIECE) :]
        await timed({**message, "body": last} if body else message)

    async def timed(message: Message) -> None:
        try:
            async with asyncio.timeout(STALLED):
                await send(message)
        except TimeoutError:
            raise CallerStalled from None

    return bounded


class EventWriter:
    """The streamed answer. The response starts with the first event; quiet spells are filled with pings."""

    def __init__(self, send: Send, headers: Mapping[str, str], ping_interval: float) -> None:
        self._send, self._headers, self._ping_interval = send, headers, ping_interval
        self._lock = asyncio.Lock()
        self._unsent = bytearray()
        self._last = 0.0
        self.started = False

    async def emit(self, events: list[Event]) -> None:
        """Send events, and return once the caller's socket has room again."""
        if events:
            await self._write(encode_events(events))

    async def finish(self, last: bytes = b"") -> None:
        """End the response."""
        async with self._lock:
            await self._send({"type": "http.response.body", "body": bytes(self._unsent) + last, "more_body": False})

    async def keep_alive(self) -> None:
        """Ping whenever nothing was sent for a while. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            quiet = loop.time() - self._last if self.started else 0.0
            if quiet >= self._ping_interval:
                await self._write(PING)
                quiet = 0.0
            await asyncio.sleep(self._ping_interval - quiet)

    async def _write(self, data: bytes) -> None:
        self._unsent += data  # whoever waits for the lock may be cancelled: what it wrote goes out with what follows
        async with self._lock:
            data, self._unsent = bytes(self._unsent), bytearray()
            if not self.started:
                self.started = True
                await self._send(_start(200, {**self._headers, **STREAM_HEADERS}))
            self._last = asyncio.get_running_loop().time()
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class MessageExchange:
    """An ASGI response that produces a message with `work` and sends it."""

    def __init__(
        self,
        work: Callable[[Emit], Awaitable[Turn]],
        *,
        stream: bool,
        headers: Mapping[str, str],
        request_id: str,
        ping_interval: float,
        on_status: Callable[[int], None],
    ) -> None:
        self._work, self._stream, self._headers = work, stream, headers
        self._request_id, self._ping_interval, self._on_status = request_id, ping_interval, on_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = impatient(send)
        run = self._run_stream(send) if self._stream else self._run_whole(send)
        worker = asyncio.create_task(run, name=f"message {self._request_id}")
        watcher = asyncio.create_task(_wait_for_disconnect(receive), name=f"caller of {self._request_id}")
        try:
            await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if worker.done():
                worker.result()  # a bug while answering must not pass for an answer
            else:
                self._part("caller left")
        except CallerStalled:
            self._part("caller takes nothing")
        finally:
            for task in (worker, watcher):
                task.cancel()
            await asyncio.gather(worker, watcher, return_exceptions=True)

    def _part(self, why: str) -> None:
        log.info(why, request_id=self._request_id)
        self._on_status(499)

    async def _run_stream(self, send: Send) -> None:
        writer = EventWriter(send, self._headers, self._ping_interval)
        pinger = asyncio.create_task(writer.keep_alive())
        try:
            failure = await self._attempt(writer.emit)
        finally:
            pinger.cancel()
            await asyncio.gather(pinger, return_exceptions=True)
        if not isinstance(failure, APIError):
            self._on_status(200)
            await writer.finish()
        elif writer.started:
            self._on_status(failure.http_status)
            await writer.finish(encode_event(failure.body(self._request_id)))
        else:
            await self._send_error(send, failure)

    async def _run_whole(self, send: Send) -> None:
        async def discard(_: list[Event]) -> None:
            return

        outcome = await self._attempt(discard)
        if isinstance(outcome, APIError):
            await self._send_error(send, outcome)
            return
        self._on_status(200)
        await send_json(send, 200, outcome.message(), self._headers)

    async def _attempt(self, emit: Emit) -> Turn | APIError:
        try:
            return await self._work(emit)
        except APIError as error:
            return error
        except CallerStalled:
            raise
        except Exception:
            log.exception("request failed", request_id=self._request_id)
            return internal()

    async def _send_error(self, send: Send, error: APIError) -> None:
        self._on_status(error.http_status)
        await send_json(send, error.http_status, error.body(self._request_id), {**self._headers, **error.headers})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, headers: Mapping[str, str]) -> Message:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def send_json(send: Send, status: int, body: Any, headers: Mapping[str, str]) -> None:
    """A whole JSON answer."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    fixed = {"content-type": "application/json", "content-length": str(len(content))}
    await send(_start(status, {**headers, **fixed}))
    await send({"type": "http.response.body", "body": content})
