"""The caller's side over HTTP/2: many requests at once, each stream with windows and a queue of its own."""

from __future__ import annotations

from collections.abc import Iterable

from qanat.net.http1 import Framing, ResponseReceived
from qanat.net.http1_fields import Header, Headers, Outgoing
from qanat.net.layer import HIGH_WATER, LOW_WATER
from qanat.net.transport import Transport
from qanat.proxy.errors import ProxyError, Reply, to_reply
from qanat.proxy.exchange import Exchange
from qanat.proxy.forward import Forwarder
from qanat.proxy.inbound import Inbound
from qanat.proxy.incoming import from_http2
from qanat.proxy.record import log
from qanat.wire.http2 import ErrorCode, HTTP2Connection, HTTP2Error, Settings
from qanat.wire.http2 import events as h2

STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
FORGIVE_AFTER = 10.0


class StreamCaller:
    """One stream, as the exchange sees it."""

    __slots__ = ("_body_paused", "_ended", "_full", "_inbound", "_unacknowledged", "exchange", "stream_id")

    def __init__(self, inbound: HTTP2Inbound, stream_id: int) -> None:
        self._inbound, self.stream_id = inbound, stream_id
        self.exchange: Exchange | None = None
        self._body_paused = self._full = self._ended = False
        self._unacknowledged = 0

    # Called by the connection.

    def body_received(self, data: bytes) -> None:
        if self.exchange is not None and not self.exchange.over:
            self.exchange.body_received(data)
        self._unacknowledged += len(data)
        if not self._body_paused:
            self._acknowledge()

    def drained(self) -> None:
        self._full = False
        if self.exchange is not None:
            self.exchange.caller_drained()

    def lost(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.caller_lost()

    # Called by the exchange.

    def send_informational(self, status: int, headers: Outgoing) -> None:
        self._inbound.codec.send_headers(self.stream_id, _encode(status, headers))
        self._inbound.flush_soon()

    def send_head(self, response: ResponseReceived, headers: Outgoing, framing: Framing) -> None:
        self._ended = framing is Framing.NONE
        self._inbound.codec.send_headers(self.stream_id, _encode(response.status, headers), self._ended)
        self._inbound.flush_soon()

    def send_body(self, data: bytes) -> None:
        codec = self._inbound.codec
        codec.send_data(self.stream_id, data)
        self._inbound.flush_soon()
        if not self._full and codec.queued(self.stream_id) > HIGH_WATER:
            self._full = True
            codec.notify_below(self.stream_id, LOW_WATER)
            if self.exchange is not None:
                self.exchange.caller_full()

    def send_end(self, trailers: Headers) -> None:
        if not self._ended:
            self._ended = True
            lines = tuple(
                (name.decode("ascii").lower(), value.decode("latin-1").rstrip(" \t")) for name, value in trailers
            )
            self._inbound.codec.end_stream(self.stream_id, lines)
            self._inbound.flush_soon()
        self.resume_body()  # the rest of a body nobody wants any more is read and dropped

    def flush(self) -> None:
        """All streams together are written once per turn."""

    def send_reply(self, reply: Reply, close: bool) -> None:
        head_only = self.exchange is not None and self.exchange.request.method == b"HEAD"
        body = b"" if head_only else reply.body
        self._inbound.codec.send_headers(self.stream_id, _encode(reply.status, reply.headers), not body)
        self._ended = not body
        if body:
            self._inbound.codec.send_data(self.stream_id, body)
        self.send_end(())

    def abort(self) -> None:
        self.exchange = None
        self._inbound.reset(self.stream_id, ErrorCode.INTERNAL_ERROR)

    def pause_body(self) -> None:
        self._body_paused = True

    def resume_body(self) -> None:
        self._body_paused = False
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._unacknowledged:
            self._inbound.codec.acknowledge(self.stream_id, self._unacknowledged)
            self._unacknowledged = 0
            self._inbound.flush_soon()


class HTTP2Inbound(Inbound):
    """A protocol for the plaintext of one inner TLS session. Reading never stops: windows hold each stream back."""

    def __init__(self, forwarder: Forwarder, idle_timeout: float, max_streams: int, sni: str | None = None) -> None:
        super().__init__(idle_timeout)
        self._forwarder, self._sni = forwarder, sni
        self.codec = HTTP2Connection(
            client=False,
            settings=Settings(
                initial_window=STREAM_WINDOW, connection_window=CONNECTION_WINDOW, max_concurrent_streams=max_streams
            ),
        )
        self._callers: dict[int, StreamCaller] = {}
        self._fed: list[Exchange] = []
        """Those that were told something since they were last asked to pass it on."""
        self._flush_scheduled = self._draining = False
        self._forgiven_at = 0.0

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._loop.time() - self._forgiven_at > FORGIVE_AFTER:
            self._forgiven_at = self._loop.time()
            self.codec.forgive()
        try:
            self.codec.receive_data(data)
        except HTTP2Error as error:
            log.warn("bad request", error=error.reason)
            self._hear_events()
            self._flush()
            self.transport.close()
            self._lose_all()
            return
        self._hear_events()
        self._flush()

    def eof_received(self) -> bool | None:
        self._lose_all()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lose_all()

    def pause_writing(self) -> None:
        self.codec.held = True

    def resume_writing(self) -> None:
        self.codec.held = False
        self._flush()

    def drain(self) -> None:
        self._draining = True
        self.codec.go_away()
        self.flush_soon()
        if not self._callers:
            self._loop.call_soon(self.transport.close)

    def flush_soon(self) -> None:
        """Write what is queued, once per turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def reset(self, stream_id: int, error_code: ErrorCode) -> None:
        """Reset a stream: an unclean end."""
        self.codec.reset_stream(stream_id, error_code)
        self.flush_soon()
        self._forget(stream_id)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.lost:
            return
        while data := self.codec.data_to_send():
            self.transport.write(data)
        self._hear_events()  # queues that have drained, streams that are done

    def _hear_events(self) -> None:
        while events := self.codec.events_received():
            for index, event in enumerate(events):
                if isinstance(event, h2.DataReceived):
                    if caller := self._callers.get(event.stream_id):
                        caller.body_received(event.data)
                        if caller.exchange is not None:
                            self._fed.append(caller.exchange)
                    else:
                        self.codec.acknowledge(event.stream_id, len(event.data))
                elif isinstance(event, h2.RequestReceived):
                    following = events[index + 1] if index + 1 < len(events) else None
                    ended = isinstance(following, h2.StreamEnded) and following.stream_id == event.stream_id
                    self._begin(event, has_body=not ended)
                else:
                    self._hear(event)
        fed, self._fed = self._fed, []
        for exchange in fed:
            exchange.flush()

    def _hear(self, event: h2.Event) -> None:
        if isinstance(event, h2.StreamEnded):
            self._end_body(event.stream_id, ())
        elif isinstance(event, h2.TrailersReceived):
            self._end_body(event.stream_id, tuple((n.encode("ascii"), v.encode("latin-1")) for n, v in event.headers))
        elif isinstance(event, h2.QueueDrained):
            if caller := self._callers.get(event.stream_id):
                caller.drained()
        elif isinstance(event, h2.StreamReset):
            if caller := self._callers.get(event.stream_id):
                caller.lost()
            self._forget(event.stream_id)
        elif isinstance(event, h2.StreamClosed):
            self._forget(event.stream_id)

    def _begin(self, event: h2.RequestReceived, has_body: bool) -> None:
        self._busy()
        caller = self._callers[event.stream_id] = StreamCaller(self, event.stream_id)
        try:
            request = from_http2(event.headers, has_body)
        except ProxyError as error:
            log.warn(error.log_phrase, error=error.detail)
            caller.send_reply(to_reply(error, self._forwarder.new_id()), close=False)
            return
        exchange = caller.exchange = Exchange(self._forwarder, caller, request, self._sni)
        self._fed.append(exchange)
        exchange.start()

    def _end_body(self, stream_id: int, trailers: Headers) -> None:
        caller = self._callers.get(stream_id)
        if caller is not None and caller.exchange is not None:
            caller.exchange.body_ended(trailers)
            self._fed.append(caller.exchange)

    def _forget(self, stream_id: int) -> None:
        if self._callers.pop(stream_id, None) is None or self._callers or self.lost:
            return
        if self._draining:
            self._loop.call_soon(self.transport.close)
        else:
            self._rest()

    def _lose_all(self) -> None:
        callers, self._callers = list(self._callers.values()), {}
        for caller in callers:
            caller.lost()


def _encode(status: int, headers: Iterable[Header]) -> tuple[tuple[str, str], ...]:
    return ((":status", str(status)), *_encode_fields(headers))


def _encode_fields(headers: Iterable[Header]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("ascii").lower(), value.decode("latin-1").rstrip(" \t")) for name, value in headers)
