"""One request and its answer: what the caller sends goes to the upstream, what comes back goes to the caller.

Nothing is kept: each piece is passed on in the call that brought it, and whoever is full stops the one who feeds it.
No timer ends an exchange unless the route's configuration asks for one, and nothing is ever tried twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from qanat.net.http1 import CHUNKED, NO_BODY, ResponseReceived
from qanat.net.http1_fields import Block, Headers, Outgoing
from qanat.net.layer import HIGH_WATER
from qanat.proxy.caller import Caller
from qanat.proxy.errors import (
    BadRequest,
    Draining,
    Misdirected,
    Overloaded,
    PathDenied,
    ProxyError,
    Reply,
    RouteNotFound,
    UpstreamTimedOut,
    to_reply,
)
from qanat.proxy.filtering import FilterRun
from qanat.proxy.headers import (
    caller_headers,
    given_request_id,
    may_name_an_origin,
    passing_trailers,
    upstream_headers,
)
from qanat.proxy.incoming import IncomingRequest
from qanat.proxy.record import CLIENT_LEFT, RequestRecord, log
from qanat.proxy.rewrite import OriginRewriter
from qanat.proxy.upstream import ResponseListener, Upstream
from qanat.proxy.watch import AnswerWatch, watch_answer

if TYPE_CHECKING:
    from qanat.proxy.forward import Forwarder
    from qanat.proxy.route import Route


class _Stage(Enum):
    WAITING = "waiting"  # for a filter's word or a connection
    FORWARDING = "forwarding"
    ANSWERING = "answering"  # the head has been sent
    OVER = "over"


_WAITING: Final = _Stage.WAITING
_FORWARDING: Final = _Stage.FORWARDING
_ANSWERING: Final = _Stage.ANSWERING
_OVER: Final = _Stage.OVER


class Exchange(ResponseListener):
    """Made by the caller's side, which then calls `start`, `body_received`, `body_ended` and `caller_lost`.

    It calls `flush` when it has told what came in one piece: then that goes to the upstream in one piece, too.
    """

    def __init__(self, forwarder: Forwarder, caller: Caller, request: IncomingRequest, sni: str | None = None) -> None:
        self.request = request
        self._forwarder, self._caller, self._sni = forwarder, caller, sni
        self._request_id = given_request_id(request.headers) or forwarder.new_id()
        self.record = RequestRecord(request, self._request_id, forwarder.metrics)
        self._headers: Outgoing | None = None
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._body_ended = request.framing is NO_BODY
        self._caller_full = False
        self._trailers: Headers = ()
        self._stage = _WAITING
        self.over = False
        """Whether nothing more will happen."""
        self.route: Route | None = None
        """The route chosen, if any."""
        self._upstream: Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._filter: FilterRun | None = None
        self._watch: AnswerWatch | None = None
        tracer = forwarder.tracer
        self._trace = tracer.begin(request.headers) if tracer is not None else None

    @property
    def standalone_stream(self) -> bool:
        """Whether this is a GET answered by an event stream, which its client can take up again."""
        return self._watch is not None and self._watch.stream == "get"

    # Called by the caller's side.

    def start(self) -> None:
        """Choose the route and go; an error is answered at once."""
        try:
            self._admit()
        except ProxyError as error:
            self.record.begin()
            self.fail(error)
            return
        self.record.begin()
        if self._filter is not None:
            self._spawn(self._filter_then_connect)
        else:
            self._connect()

    def body_received(self, data: bytes) -> None:
        """A piece of the request's body."""
        self.record.bytes_in += len(data)
        if self._upstream is not None:
            self._upstream.send_body(data)
        elif self._stage is _WAITING:
            self._pending.append(data)
            self._pending_size += len(data)
            if self._filter is not None:
                self._filter.body_received()
            if self._pending_size > HIGH_WATER and not (self._filter is not None and self._filter.reads_body):
                self._caller.pause_body()

    def body_ended(self, trailers: Headers = ()) -> None:
        """The request is complete."""
        # Trailers come after a policy has judged the headers, and some upstreams take them for headers.
        self._body_ended = True
        if trailers and self._filter is None:
            self._trailers = passing_trailers(trailers)
        if self._upstream is not None:
            self._upstream.end_body(self._trailers)
        elif self._filter is not None:
            self._filter.body_received()

    def flush(self) -> None:
        """Pass on what has been told."""
        if self._upstream is not None:
            self._upstream.flush()

    def caller_lost(self) -> None:
        """The caller left: the upstream must know at once, because this is how a call is cancelled."""
        if self.over:
            return
        self.record.status, self.record.error_type = CLIENT_LEFT, "client_disconnected"
        log.info("client disconnected", request_id=self._request_id, route=self.record.route)
        self._release_upstream()
        self._finish()

    def request_broken(self, error: ProxyError) -> None:
        """The rest of the request cannot be read: nothing more of it is forwarded."""
        if self._stage is _ANSWERING:
            self.abort()
        else:
            self.fail(error)

    def caller_full(self) -> None:
        """The caller takes no more of the answer for now."""
        self._caller_full = True
        if self._upstream is not None:
            self._upstream.pause_reading()

    def caller_drained(self) -> None:
        """It takes more again."""
        self._caller_full = False
        if self._upstream is not None:
            self._upstream.resume_reading()

    def end_stream(self) -> None:
        """End an event stream cleanly: its client comes back and resumes elsewhere."""
        if self._watch is not None and self._watch.sized:
            self.abort()
            return
        self._release_upstream()
        self._caller.send_end(())
        self._finish()

    def insert(self, data: bytes) -> None:
        """Send something of ours between two events of a stream."""
        self._caller.send_body(data)
        self._caller.flush()

    def count_stream(self, kind: str, step: int) -> None:
        """An event stream has begun, or is over."""
        self._forwarder.metrics.streams.labels(self.record.route, kind).inc(step)

    def abort(self) -> None:
        """End the exchange uncleanly, whatever its stage: time is up."""
        if self.over:
            return
        self.record.error_type = "aborted"
        self._release_upstream()
        self._caller.abort()
        self._finish()

    # Called by a filter's run.

    @property
    def body_so_far(self) -> tuple[int, bool]:
        """How many bytes of the body have come, and whether that is all."""
        return self._pending_size, self._body_ended

    def take_body_copy(self) -> bytes:
        """The body as it has come so far; it will still be forwarded."""
        self._pending = [b"".join(self._pending)]
        return self._pending[0]

    def invite_body(self) -> None:
        """Tell the caller, who waits for that, to send it."""
        self._caller.send_informational(100, Outgoing(Block(), []))

    def want_body(self) -> None:
        """A filter waits for more of it."""
        self._caller.resume_body()

    # Choosing and connecting.

    def _admit(self) -> None:
        forwarder, request = self._forwarder, self.request
        if forwarder.draining:
            raise Draining
        if not forwarder.enter(self):
            raise Overloaded
        host = request.authority.host
        route = forwarder.table.match(host)
        if route is None:
            raise RouteNotFound
        self.record.route, self.record.upstream = route.name, route.upstream
        if self._sni and self._sni != host and not forwarder.table.serves_both(self._sni, host):
            raise Misdirected
        if route.paths is not None and not route.allows(request.path):
            raise PathDenied
        self._headers = upstream_headers(
            request.headers,
            host=route.host_for(request.authority),
            authority=request.authority,
            request_id=self._request_id,
            protocol=request.protocol,
        )
        if self._trace is not None:
            self._headers = self._trace.onward(self._headers)
        forwarder.occupy(route)
        self.route = route
        if route.filter is not None:
            self._filter = FilterRun(route.filter, self)

    async def _filter_then_connect(self) -> None:
        assert self._filter is not None
        assert self._headers is not None
        lines = list(self._headers)
        self._headers = Outgoing(Block(), lines)
        reply = await self._filter.admit(self._request_id, lines)
        if reply is not None:
            self._answer(reply)
        else:
            await self._take_connection()

    def _connect(self) -> None:
        assert self.route is not None
        if self._trace is not None:
            self._trace.called()
        upstream = self.route.pool.take()
        if upstream is not None:
            self._attach(upstream)
        else:
            self._spawn(self._take_connection)

    async def _take_connection(self) -> None:
        assert self.route is not None
        if self._trace is not None:
            self._trace.called()
        self._attach(self.route.pool.take() or await self.route.pool.connect())
        self.flush()

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        self._task = self._forwarder.spawn(self._guarded(work))

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ProxyError as error:
            self.fail(error)
        except Exception:
            log.exception("internal error", request_id=self._request_id, route=self.record.route)
            self.fail(ProxyError())

    def _attach(self, upstream: Upstream) -> None:
        """The connection is there: send what has come so far."""
        if self.over:
            upstream.close()
            return
        assert self.route is not None
        assert self._headers is not None
        request = self.request
        self._upstream, self._stage = upstream, _FORWARDING
        upstream.send_request(self, request.method, request.target, self._headers, request.framing)
        if self._pending:
            for data in self._pending:
                upstream.send_body(data)
            self._pending.clear()
        if self._body_ended:
            upstream.end_body(self._trailers)
        if self._caller_full:
            upstream.pause_reading()
        self._caller.resume_body()
        if limit := self.route.header_timeout:
            self._timer = asyncio.get_running_loop().call_later(limit, self._header_timed_out)

    # Called by the upstream's side.

    def response_received(self, response: ResponseReceived) -> None:
        if response.status < 200:
            self._caller.send_informational(response.status, caller_headers(response.headers, self._request_id, None))
            return
        route = self.route
        assert route is not None
        if self._timer is not None:
            self._stop_timer()
        try:
            changed = self._filter is not None and self._filter.filter_response(response)
        except ProxyError as error:
            self.fail(error)
            return
        self._stage = _ANSWERING
        self.record.answered(response.status)
        if self._trace is not None:
            self._trace.answered(response.status)
        rewriter = None
        if route.rewrite_origins and may_name_an_origin(response.headers):
            rewriter = OriginRewriter(route.destination.url, self.request.authority)
        headers, framing = caller_headers(response.headers, self._request_id, rewriter), response.framing
        if changed and framing is not NO_BODY:
            headers = Outgoing(Block(), [header for header in headers if header[0].lower() != b"content-length"])
            framing = CHUNKED
        expires_at = self._filter.expires_at if self._filter is not None else None
        self._watch = watch_answer(self, route, response, expires_at)
        self._caller.send_head(response, headers, framing)

    def response_body(self, data: bytes) -> None:
        if self._filter is not None:
            try:
                data = self._filter.response_body(data)
            except ProxyError as error:
                self.fail(error)
                return
        if self._watch is not None:
            self._watch.passed(data)
        if data:
            self.record.bytes_out += len(data)
            self._caller.send_body(data)

    def response_ended(self, trailers: Headers) -> None:
        self._upstream = None
        if self._filter is not None:
            try:
                rest = self._filter.response_end()
            except ProxyError as error:
                self.fail(error)
                return
            if rest:
                self.record.bytes_out += len(rest)
                self._caller.send_body(rest)
        self._caller.send_end(trailers and passing_trailers(trailers))
        self._finish()

    def flush_answer(self) -> None:
        self._caller.flush()

    def upstream_lost(self, error: ProxyError) -> None:
        self._upstream = None
        self.fail(error)

    def upstream_full(self) -> None:
        self._caller.pause_body()

    def upstream_drained(self) -> None:
        self._caller.resume_body()

    # Endings.

    def fail(self, error: ProxyError) -> None:
        """Something went wrong: say so, or cut the answer short if it has begun."""
        if self.over:
            return
        if self._stage is _ANSWERING:
            self.record.error_type = "upstream_aborted"
            log.warn("upstream aborted", request_id=self._request_id, route=self.record.route, error=error.detail)
            self._release_upstream()
            self._caller.abort()
            self._finish()
            return
        self.record.failed(error)
        self._answer(to_reply(error, self._request_id), close=isinstance(error, BadRequest))

    def _answer(self, reply: Reply, close: bool = False) -> None:
        self._release_upstream()
        self.record.answered(reply.status)
        self.record.error_type = self.record.error_type or reply.error_type
        self.record.bytes_out += len(reply.body)
        self._caller.send_reply(reply, close)
        self._caller.resume_body()
        self._finish()

    def _header_timed_out(self) -> None:
        self.fail(UpstreamTimedOut("no response headers in time"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release_upstream(self) -> None:
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _finish(self) -> None:
        self._stage, self.over = _OVER, True
        if self._timer is not None:
            self._stop_timer()
        self._pending.clear()
        if self._watch is not None:
            self._watch.stop()
        self.record.finish()
        if self._trace is not None:
            self._trace.finish(self.record, self.route)
        if self._filter is not None:
            self._filter.finished(self.record.outcome)
        self._forwarder.leave(self, self.route)
