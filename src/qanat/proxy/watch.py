"""What an event stream, a limit on silence or a refused Host asks of an answer while its body goes by.

Most answers ask nothing of the kind and have no watch.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from qanat.net.http1 import Framing, ResponseReceived
from qanat.proxy.errors import UpstreamTimedOut
from qanat.proxy.hints import HostHint
from qanat.proxy.sse import KeepAlive

if TYPE_CHECKING:
    from qanat.proxy.exchange import Exchange
    from qanat.proxy.route import Route

_EVENT_STREAM: Final = b"text/event-stream"


def watch_answer(
    exchange: Exchange, route: Route, response: ResponseReceived, expires_at: float | None
) -> AnswerWatch | None:
    """A watch, if this answer needs one. `expires_at`: Unix seconds at which the caller's right ends, if it does."""
    types = response.headers.by_name.get(b"content-type")
    streams = types is not None and types[0].lower().startswith(_EVENT_STREAM)
    refused = response.status in (421, 403) and not route.hinted
    if not (streams or refused or route.idle_timeout):
        return None
    watch = AnswerWatch(exchange, route)
    if streams:
        watch.begin_stream(response.framing, expires_at)
    if refused:
        watch.hint = HostHint(route, exchange.request.authority, response.status)
    return watch


class AnswerWatch:
    """Sees one answer's body go by."""

    def __init__(self, exchange: Exchange, route: Route) -> None:
        self._exchange, self._route = exchange, route
        self._loop = asyncio.get_running_loop()
        self.stream = ""
        """`get` or `post` when an event stream answers one of them."""
        self.sized = False
        """Whether the stream was announced with a length: ended early, it must not pass for complete."""
        self.hint: HostHint | None = None
        self._keep_alive: KeepAlive | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._restart_idle_timer()

    def begin_stream(self, framing: Framing, expires_at: float | None) -> None:
        """The answer is an event stream. It outlives no token: its client comes back with a fresh one."""
        exchange, every = self._exchange, self._route.sse_keepalive
        self.stream = "get" if exchange.request.method == b"GET" else "post"
        self.sized = framing is Framing.LENGTH
        exchange.count_stream(self.stream, 1)
        if expires_at is not None:
            self._expiry = self._loop.call_later(max(0.0, expires_at - time.time()), exchange.end_stream)
        if every and framing in (Framing.CHUNKED, Framing.CLOSE):
            self._keep_alive = KeepAlive(every, exchange.insert)

    def passed(self, data: bytes) -> None:
        """A piece of the body went by."""
        if self._keep_alive is not None:
            self._keep_alive.passed(data)
        if self.hint is not None:
            self.hint.passed(data)
        self._restart_idle_timer()

    def stop(self) -> None:
        """The answer is over."""
        if self._keep_alive is not None:
            self._keep_alive.stop()
        for timer in (self._expiry, self._idle_timer):
            if timer is not None:
                timer.cancel()
        if self.stream:
            self._exchange.count_stream(self.stream, -1)

    def _restart_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if limit := self._route.idle_timeout:
            self._idle_timer = self._loop.call_later(limit, self._exchange.fail, UpstreamTimedOut("stream idle"))
