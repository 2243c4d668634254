"""The caller's side over HTTP/1.1: one request after the other on one inner connection."""

from __future__ import annotations

import asyncio
from typing import Final

from qanat.errors import ProtocolError
from qanat.net.errors import HTTPViolation
from qanat.net.http1 import (
    CHUNKED,
    NO_BODY,
    BodyReceived,
    Framing,
    MessageEnded,
    RequestReader,
    RequestReceived,
    ResponseReceived,
    encode_chunk,
    encode_last_chunk,
)
from qanat.net.http1_fields import Headers, Outgoing, encode_head, tokens
from qanat.net.layer import Layer
from qanat.net.transport import Transport
from qanat.proxy.errors import BadRequest, HeadersTooLarge, ProxyError, Reply, URITooLong, to_reply
from qanat.proxy.exchange import Exchange
from qanat.proxy.forward import Forwarder
from qanat.proxy.inbound import Inbound
from qanat.proxy.incoming import IncomingRequest, from_http1
from qanat.proxy.record import log

MAX_PIPELINED: Final = 64 * 1024
"""Bytes of further requests that may wait while one is being answered."""
DISCARD_TIME: Final = 30.0
"""Seconds a caller has to finish sending a body nobody wants any more."""


class HTTP1Inbound(Inbound):
    """A protocol for the plaintext of one inner TLS session, and the `Caller` of each of its requests."""

    def __init__(self, forwarder: Forwarder, idle_timeout: float, sni: str | None = None) -> None:
        super().__init__(idle_timeout)
        self._forwarder, self._sni = forwarder, sni
        self._reader = RequestReader()
        self._head: RequestReceived | None = None
        self._request: IncomingRequest | None = None
        """What the last head was taken for."""
        self._exchange: Exchange | None = None
        self._framing = NO_BODY
        self._request_ended = self._answered = True
        self._outgoing: list[bytes] = []
        self._close_after = self._draining = False
        self._body_paused = self._reading_paused = False
        self._caller_full = False
        """Whether the caller leaves too much unread. Then no further request is begun."""
        self._held = False
        """Whether that is what the next request waits for."""
        self._discard_timer: asyncio.TimerHandle | None = None

    # Called by the transport below.

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        if isinstance(transport, Layer):
            transport.write_through()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.receive_data(data)
        except HTTPViolation as violation:
            self._hear_events()
            self._refuse(violation)
            return
        self._hear_events()
        if len(self._reader.waiting) > MAX_PIPELINED:
            self._update_reading()

    def eof_received(self) -> bool | None:
        self._lose()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._discard_timer is not None:
            self._discard_timer.cancel()
        self._lose()

    def pause_writing(self) -> None:
        self._caller_full = True
        if self._exchange is not None:
            self._exchange.caller_full()

    def resume_writing(self) -> None:
        self._caller_full = False
        if self._exchange is not None:
            self._exchange.caller_drained()
        if self._held:
            self._held = False
            self._maybe_next()

    def forget(self) -> None:
        self._head = self._request = None
        self._reader.forget()

    # Reading.

    def _hear_events(self) -> None:
        for event in self._reader.events_received():
            if isinstance(event, RequestReceived):
                self._begin(event)
            elif isinstance(event, BodyReceived):
                if self._exchange is not None:
                    self._exchange.body_received(event.data)
            elif isinstance(event, MessageEnded):
                self._request_ended = True
                if self._exchange is not None:
                    self._exchange.body_ended(event.trailers)
                if self._answered:
                    self._maybe_next()
        if self._exchange is not None:
            self._exchange.flush()

    def _begin(self, event: RequestReceived) -> None:
        self._busy()
        self._request_ended = self._answered = False
        self._framing = NO_BODY
        request = self._request
        if request is None or event is not self._head:
            try:
                request = from_http1(event)
            except ProxyError as error:
                self._refuse_with(error)
                return
            if self._request is None:
                self._look_soon()
            self._head, self._request = event, request
        if b"connection" in request.headers.by_name and b"close" in tokens(request.headers, b"connection"):
            self._close_after = True
        self._exchange = Exchange(self._forwarder, self, request, self._sni)
        if self._caller_full:
            self._exchange.caller_full()
        self._exchange.start()

    def _refuse(self, violation: ProtocolError) -> None:
        """What came cannot be read: answer if an answer is still due, and close."""
        if self._answered and not self._request_ended:
            self.transport.close()
            return
        answer = violation.answer if isinstance(violation, HTTPViolation) else 400
        error: ProxyError = {414: URITooLong, 431: HeadersTooLarge}.get(answer, BadRequest)(violation.reason)
        if self._exchange is not None and not self._exchange.over:
            self._exchange.request_broken(error)
            return
        self._refuse_with(error)

    def _refuse_with(self, error: ProxyError) -> None:
        log.warn(error.log_phrase, error=error.detail)
        self._exchange = None
        self.send_reply(to_reply(error, self._forwarder.new_id()), close=True)

    def _lose(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.caller_lost()

    # The caller, as the exchange sees it.

    def send_informational(self, status: int, headers: Outgoing) -> None:
        self.transport.write(headers.encode(b"HTTP/1.1 %d " % status))

    def send_head(self, response: ResponseReceived, headers: Outgoing, framing: Framing) -> None:
        self._framing = CHUNKED if framing is Framing.CLOSE else framing
        if self._framing is CHUNKED:
            headers.own.append((b"Transfer-Encoding", b"chunked"))
        if self._close_after or self._draining:
            self._close_after = True
            headers.own.append((b"Connection", b"close"))
        self._outgoing.append(headers.encode(b"HTTP/1.1 %d %b" % (response.status, response.reason)))

    def send_body(self, data: bytes) -> None:
        self._outgoing.append(encode_chunk(data) if self._framing is CHUNKED else data)

    def send_end(self, trailers: Headers) -> None:
        if self._framing is CHUNKED:
            self._outgoing.append(encode_last_chunk(trailers))
        self.flush()
        self._answer_sent()

    def flush(self) -> None:
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = []
            self.transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def send_reply(self, reply: Reply, close: bool) -> None:
        self._close_after = self._close_after or close or self._draining
        headers = list(reply.headers)
        if self._close_after:
            headers.append((b"Connection", b"close"))
        without_body = self._exchange is not None and self._exchange.request.method == b"HEAD"
        head = encode_head(b"HTTP/1.1 %d %b" % (reply.status, reply.reason), headers)
        self.transport.write(head if without_body else head + reply.body)
        self._answer_sent()
        if close:
            self.transport.close()

    def abort(self) -> None:
        self._exchange = None
        self._outgoing.clear()
        self.transport.abort()

    def pause_body(self) -> None:
        self._body_paused = True
        self._update_reading()

    def resume_body(self) -> None:
        if self._body_paused:
            self._body_paused = False
            self._update_reading()

    # Between requests.

    def _answer_sent(self) -> None:
        self._answered, self._body_paused = True, False
        if self._request_ended:
            self._maybe_next()
            return
        if self._discard_timer is None:
            # Read the rest and drop it: a caller that still writes would not read the answer otherwise.
            self._discard_timer = self._loop.call_later(DISCARD_TIME, self.transport.close)
        self._update_reading()

    def _maybe_next(self) -> None:
        """Both sides of an exchange are complete."""
        if self.lost:
            return
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        if self._close_after or self._draining:
            self.transport.close()
        elif self._caller_full:
            self._held = True
            self._rest()
        elif self._reader.waiting:  # later, or a row of pipelined requests would end in as many calls within calls
            self._loop.call_soon(self._take_up_pipelined)
        else:
            self._be_ready()
            self._reader.next_message()

    def _be_ready(self) -> None:
        self._exchange = None
        self._rest()
        if self._reading_paused:
            self._update_reading()

    def _take_up_pipelined(self) -> None:
        if self.lost or self.transport.is_closing():
            return
        self._be_ready()
        try:
            self._reader.next_message()
        except HTTPViolation as violation:
            self._hear_events()
            self._refuse(violation)
            return
        self._hear_events()
        if self._reading_paused:
            self._update_reading()

    def drain(self) -> None:
        self._draining = True
        if self._answered and self._request_ended:
            self.transport.close()

    def _update_reading(self) -> None:
        wanted = not self._body_paused and len(self._reader.waiting) <= MAX_PIPELINED
        if wanted == self._reading_paused and not self.lost:
            self._reading_paused = not wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()
