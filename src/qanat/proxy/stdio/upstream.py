"""A stdio route where the proxy expects an upstream: a pool that hands out one "connection" per request.

The exchange above cannot tell it from a socket: it sends a head and a body, hears an answer, pauses and aborts.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from qanat.net.http1 import Framing, ResponseReceived
from qanat.net.http1_fields import Fields, Header, Headers, Outgoing
from qanat.proxy.errors import UpstreamBroken
from qanat.proxy.headers import expects_continue
from qanat.proxy.pool import Pool
from qanat.proxy.stdio.route import StdioConfig, StdioRequest, StdioRoute
from qanat.proxy.upstream import ResponseListener, Upstream

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request's body: a JSON-RPC message is read whole. The SDKs' servers have the same limit."""


class StdioUpstream(Upstream):
    """One exchange with a stdio route."""

    reused = False
    address = "stdio"

    def __init__(self, route: StdioRoute) -> None:
        self._route = route
        self._listener: ResponseListener | None = None
        self._task: asyncio.Task[None] | None = None
        self._request = StdioRequest("", "", {})
        self._body = bytearray()
        self._too_large = False
        self._held: list[bytes] = []
        self._paused = self._ended = False

    # Called by the exchange.

    def send_request(
        self, listener: ResponseListener, method: bytes, target: bytes, headers: Outgoing, framing: Framing
    ) -> None:
        """See `UpstreamConnection`."""
        self._listener = listener
        fields = {name.lower().decode("ascii"): value.decode("latin-1") for name, value in headers}
        path = target.partition(b"?")[0].decode("latin-1")
        self._request = StdioRequest(method.decode("ascii"), path, fields)
        self._too_large = int(fields.get("content-length", 0)) > MAX_BODY
        if framing is Framing.NONE or self._too_large:
            self._begin()
        elif expects_continue(headers):
            listener.response_received(ResponseReceived(100, b"Continue", b"1.1", Fields(), Framing.NONE))

    def flush(self) -> None:
        """See `UpstreamConnection`: nothing waits here."""

    def send_body(self, data: bytes) -> None:
        """See `UpstreamConnection`."""
        self._too_large = self._too_large or len(self._body) + len(data) > MAX_BODY
        if not self._too_large:
            self._body += data

    def end_body(self, trailers: Headers) -> None:
        """See `UpstreamConnection`."""
        if self._task is None:
            self._begin()

    def pause_reading(self) -> None:
        """See `UpstreamConnection`."""
        self._paused = True

    def resume_reading(self) -> None:
        """See `UpstreamConnection`."""
        self._paused = False
        held, self._held = self._held, []
        for data in held:
            self.write(data)
        if self._ended:
            self.finish()

    def abort(self) -> None:
        """See `UpstreamConnection`."""
        self._listener = None
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    close = abort

    # Called by the route.

    def start(self, status: int, headers: list[tuple[str, str]], length: int | None) -> None:
        """See `Exchange`."""
        if self._listener is None:
            return
        lines: list[Header] = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        framing = Framing.CHUNKED if length is None else Framing.LENGTH
        if length is not None:
            lines.append((b"Content-Length", b"%d" % length))
        reason = HTTPStatus(status).phrase.encode("ascii")
        self._listener.response_received(ResponseReceived(status, reason, b"1.1", Fields(lines), framing, length or 0))
        self._flush()

    def write(self, data: bytes) -> None:
        """See `Exchange`."""
        if self._listener is None or not data:
            return
        if self._paused:
            self._held.append(data)
        else:
            self._listener.response_body(data)
            self._flush()

    def finish(self) -> None:
        """See `Exchange`."""
        self._ended = True
        if self._listener is not None and not self._held:
            listener, self._listener = self._listener, None
            listener.response_ended(())

    def _flush(self) -> None:
        if self._listener is not None:  # it may have left meanwhile
            self._listener.flush_answer()

    def queued(self) -> int:
        """See `Exchange`."""
        return sum(map(len, self._held))

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="stdio-exchange")

    async def _serve(self) -> None:
        request = StdioRequest(self._request.method, self._request.path, self._request.headers, bytes(self._body))
        self._body.clear()
        try:
            if self._too_large:
                self.start(413, [], 0)
                self.finish()
            else:
                await self._route.handle(request, self)
        finally:
            listener, self._listener = self._listener, None
            if listener is not None and not self._ended:
                listener.upstream_lost(UpstreamBroken("stdio exchange ended early"))
            elif listener is not None:
                self._listener = listener  # the caller is slow: what is held goes out when it resumes


class StdioPool(Pool):
    """The pool of a stdio route: nothing is ever idle, and closing it ends the children."""

    def __init__(self, config: StdioConfig) -> None:
        super().__init__()
        self.route = StdioRoute(config)

    def take(self) -> StdioUpstream | None:
        """A fresh one, always."""
        return StdioUpstream(self.route)

    async def connect(self) -> StdioUpstream:
        """The same."""
        return StdioUpstream(self.route)

    def close(self) -> None:
        """Begin to end the children, once no request needs them; `wait_closed` awaits it."""
        self.closed = True
        if self.ending is None and not self.in_flight:
            self.ending = asyncio.get_running_loop().create_task(self.route.close(), name="stdio-close")
