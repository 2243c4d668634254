"""The tunnel over QUIC.

The connector dials and opens the control stream, its first; the edge opens one stream for each request. There is no
half-close on WebSocket and TCP streams, and there are no trailers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from qh3.quic.connection import NetworkAddress

from qanat.errors import ProtocolError
from qanat.net.layer import Layer
from qanat.net.transport import Receiver, Transport
from qanat.tunnel.connection import (
    ConnectionLost,
    ConnectionUnavailable,
    ConnectorConnection,
    EdgeConnection,
    Headers,
    Registered,
    Registrar,
    RegistrationRequest,
    RequestHead,
    ResponseHead,
    StreamHandler,
    StreamKind,
    StreamProtocol,
    StreamReset,
)
from qanat.tunnel.control import FIRST_CALL_TIMEOUT, ConnectorControl, EdgeControl
from qanat.tunnel.quic_engine import Engine
from qanat.tunnel.quic_heads import from_request, from_response, to_request, to_response
from qanat.tunnel.quic_link import INTERNAL_ERROR, NO_ERROR, QUICLink, QUICStream, StopAware
from qanat.tunnel.quic_rpc import ConfigurationPush, RemoteCalls
from qanat.wire.control_stream import RPC_TIMEOUT
from qanat.wire.quic_stream import ConnectRequest, ConnectResponse, RequestReader, ResponseReader, RPCStarted
from qanat.wire.registration import ConfigurationResult

CONTROL_STREAM = 0
MAX_STREAMS = 1_000
LOW_CREDIT = 64 * 1024
"""Bytes: with less than this left of the peer's connection window, other connections are better."""
PING_EVERY = 1.0
LAST_WORDS = 0.1
"""Seconds between a last answer and the close, which would otherwise overtake it."""

Send = Callable[[bytes, NetworkAddress], None]


class QUICEdgeConnection(EdgeConnection):
    """The edge's end."""

    request: RegistrationRequest
    registered: Registered

    def __init__(self, engine: Engine, registrar: Registrar, send: Send, address: str) -> None:
        self.link = QUICLink(engine, self, send)
        self.on_handshake: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        self._registrar, self._address = registrar, address
        self._control: EdgeControl | None = None
        self._open = 0
        self._draining = False
        self._closed = asyncio.Event()
        self._last_words: asyncio.TimerHandle | None = None
        self._patience = asyncio.get_running_loop().call_later(FIRST_CALL_TIMEOUT, self._lose_patience)

    def open_stream(self, head: RequestHead, protocol: StreamProtocol) -> Transport:
        message = to_request(head).encode()
        if not self.available_streams or self.link.engine.connection_credit < len(message):
            # The second also keeps the head whole: cloudflared misreads one that is cut behind its seventh byte.
            raise ConnectionUnavailable("no stream left on this connection")
        end = _EdgeStream(protocol, head.kind, self._stream_ended)
        stream = self.link.open_stream(end)
        self._open += 1
        stream.write(message)
        end.connection_made(stream)
        if head.kind is StreamKind.HTTP and not head.has_body:
            stream.write_eof()
        return end

    async def push_configuration(self, version: int, config: object) -> ConfigurationResult:
        if not self.available_streams:
            raise ConnectionUnavailable("no stream left on this connection")
        push = ConfigurationPush(version, config)
        stream = self.link.open_stream(push)
        push.connection_made(stream)
        try:
            async with asyncio.timeout(RPC_TIMEOUT):
                return await push.answered
        finally:
            stream.close()

    @property
    def available_streams(self) -> int:
        ready = self._control is not None and self._control.is_registered
        if not ready or self._draining or self.link.lost or self.link.engine.connection_credit < LOW_CREDIT:
            return 0
        return max(0, min(self.link.engine.streams_left, MAX_STREAMS - self._open))

    @property
    def open_streams(self) -> int:
        return self._open

    def drain(self) -> None:
        self._draining = True
        self._close_when_idle()

    def close(self) -> None:
        if self._control is not None and not self._control.is_registered:
            self._close_soon()
        else:
            self.link.close()

    async def wait_closed(self) -> None:
        await self._closed.wait()
        if self._control is not None:
            await self._control.wait_closed()

    # For the link.

    def handshake_completed(self) -> None:
        """A probe ends here, a connector opens its control stream."""
        self.on_handshake()

    def stream_opened(self, stream: QUICStream) -> Receiver:
        if stream.stream_id != CONTROL_STREAM:
            return _Refused()
        self._control = EdgeControl(self._registrar, self, self._address, "quic", stream.write)
        return _ControlStream(self._control.data_received, self.close)

    def _lose_patience(self) -> None:
        if self._control is None:
            self.link.close("never registered")

    def link_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        if self._last_words is not None:
            self._last_words.cancel()
        if self._control is not None:
            self._control.lost(exc)
        self._closed.set()
        self.on_lost()

    def _stream_ended(self) -> None:
        self._open -= 1
        if self._draining:
            self._close_when_idle()

    def _close_when_idle(self) -> None:
        if not self._open:
            self._close_soon()

    def _close_soon(self) -> None:
        if self._last_words is None and not self.link.lost:
            self._last_words = asyncio.get_running_loop().call_later(LAST_WORDS, self.link.close)


class QUICConnectorConnection(ConnectorConnection):
    """The connector's end. `connect` dials; then `register`."""

    def __init__(self, engine: Engine, handler: StreamHandler, send: Send) -> None:
        self.link = QUICLink(engine, self, send)
        self.on_lost: Callable[[], None] = lambda: None
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        """Done when the handshake is; fails when the connection ends before."""
        self._closed: asyncio.Future[Exception | None] = loop.create_future()
        self._handler = handler
        self._control: ConnectorControl | None = None
        self._open: set[_Incoming] = set()

    async def register(self, request: RegistrationRequest) -> Registered:
        if self.link.lost:
            raise ConnectionLost("connection with edge closed")
        protocol = _ControlStream(lambda data: control.data_received(data), self.close)
        stream = self.link.open_stream(protocol)
        control = self._control = ConnectorControl(stream.write)
        control.opened()
        return await control.register(request)

    async def unregister(self) -> None:
        if self._control is not None:
            await self._control.unregister()

    @property
    def open_streams(self) -> int:
        return len(self._open)

    def close(self) -> None:
        self.link.close()

    async def wait_closed(self) -> Exception | None:
        return await asyncio.shield(self._closed)

    # For the link.

    def handshake_completed(self) -> None:
        self.link.keep_alive(PING_EVERY)
        if not self.connected.done():
            self.connected.set_result(None)

    def stream_opened(self, stream: QUICStream) -> Receiver:
        incoming = _Incoming(self._handler, self._open.discard)
        self._open.add(incoming)
        return incoming

    def link_lost(self, exc: Exception | None) -> None:
        error = exc or ConnectionLost("connection with edge closed")
        if not self.connected.done():
            self.connected.set_exception(error)
            self.connected.exception()  # whoever dials awaits it; if nobody does any more, it is no news
        if self._control is not None:
            self._control.lost(error)
        if not self._closed.done():
            self._closed.set_result(exc)
        self.on_lost()


class _ControlStream(Receiver):
    """Passes the control stream's bytes on; bytes that make no sense, and answers left unread, end the connection."""

    def __init__(self, receive: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self._receive, self._close = receive, close

    def data_received(self, data: bytes) -> None:
        try:
            self._receive(data)
        except ProtocolError:
            self._close()

    def pause_writing(self) -> None:
        self._close()

    def eof_received(self) -> bool:
        return True  # cloudflared ends its side after it has unregistered: our answer is still under way


class _Refused(Receiver):
    """A stream that we have no use for: cloudflared opens some for UDP sessions."""

    def connection_made(self, transport: Transport) -> None:
        assert isinstance(transport, QUICStream)
        transport.reset(NO_ERROR)


class _EdgeStream(Layer, StopAware):
    """The edge's side of a request stream: reads the head of the answer, then passes bytes on."""

    above: StreamProtocol
    below: QUICStream

    def __init__(self, above: StreamProtocol, kind: StreamKind, on_ended: Callable[[], None]) -> None:
        super().__init__(above)
        self._kind, self._on_ended = kind, on_ended
        self._reader: ResponseReader | None = ResponseReader()

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self.above.data_received(data)
            return
        self._reader.receive_data(data)
        for event in self._reader.events_received():
            if isinstance(event, ConnectResponse):
                self._reader = None
                self.above.response_received(from_response(event, self._kind))
            elif not isinstance(event, RPCStarted):
                self.below.unread(event.data)  # the protocol above may just have paused

    def eof_received(self) -> bool | None:
        if self._reader is not None:
            self._lose_above(StreamReset(NO_ERROR))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_ended()
        super().connection_lost(exc)


class _Incoming(Layer, StopAware):
    """The connector's side of a request stream: reads the request's head, then is the transport of its handler."""

    below: QUICStream

    def __init__(self, handler: StreamHandler, on_ended: Callable[[Any], None]) -> None:
        super().__init__(asyncio.Protocol())
        self._handler, self._on_ended = handler, on_ended
        self._reader: RequestReader | None = RequestReader()

    def connection_made(self, transport: Transport) -> None:
        assert isinstance(transport, QUICStream)
        self.below = transport  # the protocol above begins once there is a head

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self.above.data_received(data)
            return
        self._reader.receive_data(data)
        for event in self._reader.events_received():
            if isinstance(event, ConnectRequest):
                self._reader = None
                self._begin(from_request(event))
            elif isinstance(event, RPCStarted):
                self._reader = None
                self.above = RemoteCalls()
                self._make_above()
            else:
                self.below.unread(event.data)  # the protocol above may just have paused

    def _begin(self, head: RequestHead) -> None:
        self.head = head
        self.above = self._handler.handle_stream(self)
        self._make_above()

    def eof_received(self) -> bool | None:
        if self._reader is not None:
            self.abort()
            return False
        if not isinstance(self.above, RemoteCalls) and self.head.kind is StreamKind.HTTP and not self.head.has_body:
            return True  # there was no body to end
        return self.above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_ended(self)
        super().connection_lost(exc)

    def peer_stopped(self, error_code: int) -> None:
        self._lose_above(StreamReset(error_code))
        self.below.abort()

    def respond(self, head: ResponseHead) -> None:
        self.below.write(to_response(head, self.head.kind).encode())

    def write_trailers(self, trailers: Headers) -> None:
        self.close()

    def abort(self) -> None:
        self.below.reset(INTERNAL_ERROR if self._reader is None else NO_ERROR)
