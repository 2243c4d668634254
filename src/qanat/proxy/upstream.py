"""A connection to an upstream: one request at a time, kept for the next one where the upstream allows it."""

from __future__ import annotations

import asyncio
import select
from abc import ABC, abstractmethod
from collections.abc import Callable

from mypy_extensions import mypyc_attr

from qanat.errors import ProtocolError
from qanat.net.http1 import (
    CHUNKED,
    NO_BODY,
    BodyReceived,
    Framing,
    MessageEnded,
    ResponseReader,
    ResponseReceived,
    encode_chunk,
    encode_last_chunk,
)
from qanat.net.http1_fields import Headers, Outgoing
from qanat.net.transport import Transport
from qanat.proxy.errors import ProxyError, UpstreamBroken, UpstreamNotTrusted


class ResponseListener(ABC):
    """Who asked: hears the answer as it comes. Nothing follows `response_ended` or `upstream_lost`."""

    @abstractmethod
    def response_received(self, response: ResponseReceived) -> None:
        """A head: any number of informational ones, then the real one."""

    @abstractmethod
    def response_body(self, data: bytes) -> None:
        """A piece of the body."""

    @abstractmethod
    def response_ended(self, trailers: Headers) -> None:
        """The answer is complete."""

    @abstractmethod
    def flush_answer(self) -> None:
        """That is all for now: pass on what has been told. Not called after the end."""

    @abstractmethod
    def upstream_lost(self, error: ProxyError) -> None:
        """The connection ended or made no sense before the answer was complete."""

    @abstractmethod
    def upstream_full(self) -> None:
        """The upstream takes no more of the request for now."""

    @abstractmethod
    def upstream_drained(self) -> None:
        """It takes more again."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Upstream(ABC):
    """What an exchange talks to: a connection, or a program that the proxy runs. Nothing is sent before `flush`."""

    @abstractmethod
    def send_request(
        self, listener: ResponseListener, method: bytes, target: bytes, headers: Outgoing, framing: Framing
    ) -> None:
        """Send a request's head. `headers` hold no framing but `Content-Length`, and are the upstream's now."""

    @abstractmethod
    def send_body(self, data: bytes) -> None:
        """Send a piece of the request's body."""

    @abstractmethod
    def end_body(self, trailers: Headers) -> None:
        """The request is complete."""

    @abstractmethod
    def flush(self) -> None:
        """Send what has come together."""

    @abstractmethod
    def pause_reading(self) -> None:
        """The caller takes no more for now."""

    @abstractmethod
    def resume_reading(self) -> None:
        """The caller takes more again."""

    @abstractmethod
    def abort(self) -> None:
        """Give up: the caller is gone."""

    @abstractmethod
    def close(self) -> None:
        """It will not be needed again."""


class UpstreamConnection(Upstream):
    """The client's end of one HTTP/1.1 connection."""

    transport: Transport

    def __init__(self, address: str, on_idle: Callable[[UpstreamConnection], None]) -> None:
        self.address = address
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.idle_since = 0.0
        self.reused = False
        self._on_idle = on_idle
        self._on_lost: Callable[[], None] | None = None
        self._below: Transport | None = None
        self._reader = ResponseReader()
        self._listener: ResponseListener | None = None
        self._request_done = self._keep_alive = False
        self._framing = Framing.NONE
        self._outgoing: list[bytes] = []
        self._poll: select.poll | None = None
        self._paused = self._full = self._lost = False

    # Called by the transport below.

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        if not self.ready.done():
            self.ready.set_result(None)

    def handshake_failed(self, error: Exception) -> None:
        """TLS could not be set up; `connection_made` never comes."""
        if not self.ready.done():
            self.ready.set_exception(UpstreamNotTrusted(str(error)))

    def data_received(self, data: bytes) -> None:
        if self._listener is None:
            self.transport.abort()  # nobody asked
            return
        try:
            self._reader.receive_data(data)
        except ProtocolError as violation:
            self._dispatch()
            self._fail(UpstreamBroken(violation.reason))
            return
        self._dispatch()

    def eof_received(self) -> bool | None:
        try:
            self._reader.receive_eof()
        except ProtocolError as violation:
            self._fail(UpstreamBroken(str(violation)))
            return False
        self._dispatch()
        self._fail(UpstreamBroken("connection closed before an answer"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._fail(UpstreamBroken(str(exc) if exc else "connection closed before an answer"))
        if self._on_lost is not None:
            self._on_lost()

    def pause_writing(self) -> None:
        self._full = True
        if self._listener is not None:
            self._listener.upstream_full()

    def resume_writing(self) -> None:
        self._full = False
        if self._listener is not None:
            self._listener.upstream_drained()

    # Called by the dialler.

    def attach(self, transport: Transport) -> None:
        """The socket is connected; TLS may still have to be agreed on."""
        self._below = transport

    def give_up(self) -> None:
        """The dialler failed or was cancelled."""
        self._lost = True
        if self._below is not None:
            self._below.abort()
        if self.ready.done() and not self.ready.cancelled():
            self.ready.exception()  # has been reported, or nobody wants to know any more

    def when_lost(self, call: Callable[[], None]) -> None:
        """Call this once, when the connection is gone: now if it is already."""
        if self._lost:
            call()
        else:
            self._on_lost = call

    # Called by the exchange.

    def send_request(
        self,
        listener: ResponseListener,
        method: bytes,
        target: bytes,
        headers: Outgoing,
        framing: Framing,
    ) -> None:
        """Send a request's head. `headers` hold no framing but `Content-Length`, and are this connection's now."""
        self._listener, self._framing = listener, framing
        self._request_done = framing is NO_BODY
        self._keep_alive = False
        self._reader.expect(method)
        if framing is CHUNKED:
            headers.own.append((b"Transfer-Encoding", b"chunked"))
        self._outgoing.append(headers.encode(b"%b %b HTTP/1.1" % (method, target)))

    def send_body(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        self._outgoing.append(encode_chunk(data) if self._framing is CHUNKED else data)

    def end_body(self, trailers: Headers) -> None:
        """The request is complete."""
        if self._request_done:
            return
        self._request_done = True
        if self._framing is CHUNKED:
            self._outgoing.append(encode_last_chunk(trailers))

    def flush(self) -> None:
        """Write what has come together: head and body in one call."""
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = []
            if not self._lost and not self.transport.is_closing():
                self.transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def pause_reading(self) -> None:
        """The caller takes no more for now."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The caller takes more again."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Give up: the caller is gone. The upstream sees its connection reset at once."""
        self._listener = None
        self.transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self._listener = None
        if not self._lost:
            self.transport.close()

    def usable(self, *, doubtful: bool) -> bool:
        """Whether this idle connection is open and silent, as far as the loop knows; if in doubt, the system is asked.

        The loop hears of an end one turn late.
        """
        if self._lost or self.transport.is_closing():
            return False
        return not doubtful or not self._has_news()

    def _has_news(self) -> bool:
        if self._poll is None:
            self._poll = select.poll()
            if (descriptor := self.transport.get_extra_info("socket")) is not None:
                self._poll.register(descriptor.fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def _dispatch(self) -> None:
        for event in self._reader.events_received():
            listener = self._listener
            if listener is None:
                return
            if isinstance(event, BodyReceived):
                listener.response_body(event.data)
            elif isinstance(event, ResponseReceived):
                self._keep_alive = event.keep_alive
                listener.response_received(event)
            elif isinstance(event, MessageEnded):
                self._finish(listener, event.trailers)
        if self._listener is not None:
            self._listener.flush_answer()

    def _finish(self, listener: ResponseListener, trailers: Headers) -> None:
        self._listener = None
        reusable = self._keep_alive and self._request_done and not self._reader.waiting and not self._full
        listener.response_ended(trailers)
        if not reusable or self._outgoing or self.transport.is_closing():
            self.transport.close()
            return
        if self._paused:
            self.resume_reading()
        self._on_idle(self)

    def _fail(self, error: ProxyError) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.upstream_lost(error)
            self.transport.abort()
