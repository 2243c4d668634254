"""Parts of pages that change by themselves: rendered here, sent over server-sent events whenever they differ.

The page holds the same part at first, so nothing is missing without script.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from starlette.responses import Response, StreamingResponse

from qanat.control.console.pages import SECURITY_HEADERS, Visit
from qanat.control.console.signin import cookie_name
from qanat.control.errors import Refused

EVERY = 1.0
"""Seconds between two looks."""
SILENCE = 3.0
"""Seconds after which the stream says that it lives: a page that hears nothing tells that it is old."""
LONGEST = 600.0
"""Seconds a stream lives; the browser opens the next one, and is asked again who it is."""

MOST = 50
"""Streams that one person may have open: each asks the store once a second."""

Render = Callable[[Visit], Awaitable[str]]


def stream(render: Render) -> Callable[[Visit], Awaitable[Response]]:
    """A handler that streams what `render` returns, for ever new."""

    async def handler(visit: Visit) -> Response:
        first = await render(visit)
        headers = {**SECURITY_HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(_counted(visit, render, first), media_type="text/event-stream", headers=headers)

    return handler


async def _counted(visit: Visit, render: Render, first: str) -> AsyncIterator[bytes]:
    """The events, or nothing for somebody who has too many streams open."""
    streams: Counter[str] = visit.request.app.state.streams
    person = f"{visit.session.organization_id} {visit.session.user}"
    if streams[person] >= MOST:
        yield b"retry: 60000\n\n"
        return
    streams[person] += 1
    try:
        async for event in _events(visit, render, first):
            yield event
    finally:
        streams[person] -= 1
        streams += Counter()  # forgets whom nothing is counted for


async def _events(visit: Visit, render: Render, first: str) -> AsyncIterator[bytes]:
    closing: asyncio.Event = visit.request.app.state.closing
    cookie = visit.request.cookies[cookie_name(visit.request)]
    loop = asyncio.get_running_loop()
    begun = spoken = loop.time()
    shown = first
    yield b"retry: 300\n" + _event(first)
    while loop.time() - begun < LONGEST:
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY):
                await closing.wait()
            return
        try:
            await visit.operations.console_sessions.find(cookie)  # it may have ended meanwhile
            html = await render(visit)
        except Refused:
            return
        if html != shown:
            shown, spoken = html, loop.time()
            yield _event(html)
        elif loop.time() - spoken > SILENCE:
            spoken = loop.time()
            yield b"event: alive\ndata: 1\n\n"


def _event(html: str) -> bytes:
    return b"data: " + json.dumps({"html": html}).encode() + b"\n\n"
