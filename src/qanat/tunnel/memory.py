"""The tunnel in memory: both ends in one process, for tests and for whoever runs edge and connector together.

It keeps the manners of the real ones: the registrar is asked, delivery is by the event loop, back-pressure holds, and
the end of a WebSocket or TCP stream in one direction ends both.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from qanat.net.layer import Layer
from qanat.net.memory import memory_pair
from qanat.net.transport import Transport
from qanat.tunnel.connection import (
    ConnectionLost,
    ConnectionUnavailable,
    ConnectorConnection,
    EdgeConnection,
    Headers,
    Registered,
    Registrar,
    RegistrationRefused,
    RegistrationRequest,
    RequestHead,
    ResponseHead,
    StreamHandler,
    StreamKind,
    StreamProtocol,
    StreamReset,
)
from qanat.wire.http2 import ErrorCode

MAX_STREAMS = 1_000


class _Opened(Layer):
    """The edge's end of a stream."""

    def __init__(self, connection: MemoryEdge, protocol: StreamProtocol) -> None:
        super().__init__(protocol)
        self._connection, self._protocol = connection, protocol
        self.trailers: Headers = ()
        self._failure: Exception | None = None

    def fail(self, exc: Exception) -> None:
        """The connection is gone."""
        self._failure = exc
        self.abort()

    def respond(self, head: ResponseHead) -> None:
        """The other end answers."""
        if not self._above_lost:
            self._protocol.response_received(head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.trailers and exc is None:
            self._protocol.trailers_received(self.trailers)
        reset = StreamReset(ErrorCode.INTERNAL_ERROR) if exc is not None else None
        super().connection_lost(self._failure or reset)
        self._connection.forget(self)


class _Incoming(Layer):
    """The connector's end of a stream."""

    def __init__(self, head: RequestHead, opened: _Opened) -> None:
        super().__init__(asyncio.Protocol())  # until the handler has said who listens
        self.head, self._opened = head, opened
        self._responded = False

    def respond(self, head: ResponseHead) -> None:
        if not self._responded:
            self._responded = True
            asyncio.get_running_loop().call_soon(self._opened.respond, head)

    def write_trailers(self, trailers: Headers) -> None:
        self._opened.trailers = trailers
        self.close()

    def close(self) -> None:
        if self._responded:
            super().close()
        else:
            self.abort()

    def eof_received(self) -> bool:
        if self.head.kind is StreamKind.HTTP and self.head.has_body:
            self.above.eof_received()
        return self.head.kind is StreamKind.HTTP

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(StreamReset(ErrorCode.CANCEL) if exc is not None else None)


class MemoryEdge(EdgeConnection):
    """The edge's end. Made by `MemoryConnector.register`."""

    request: RegistrationRequest
    registered: Registered

    def __init__(self, registrar: Registrar, handler: StreamHandler) -> None:
        self._registrar, self._handler = registrar, handler
        self._streams: set[_Opened] = set()
        self._draining = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def open_stream(self, head: RequestHead, protocol: StreamProtocol) -> Transport:
        if self.available_streams <= 0:
            raise ConnectionUnavailable("the tunnel connection takes no further stream")
        opened = _Opened(self, protocol)
        incoming = _Incoming(head, opened)
        incoming.set_protocol(self._handler.handle_stream(incoming))
        self._streams.add(opened)
        memory_pair(opened, incoming)
        return opened

    @property
    def available_streams(self) -> int:
        return 0 if self._draining or self.closed.done() else MAX_STREAMS - len(self._streams)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def drain(self) -> None:
        self._draining = True
        if not self._streams:
            self.close()

    def close(self) -> None:
        if self.closed.done():
            return
        self.closed.set_result(None)
        for stream in list(self._streams):
            stream.fail(ConnectionLost("tunnel connection lost"))
        self._registrar.connection_lost(self, None)

    async def wait_closed(self) -> None:
        await asyncio.shield(self.closed)

    def forget(self, stream: _Opened) -> None:
        """A stream has ended."""
        self._streams.discard(stream)
        if self._draining and not self._streams:
            self.close()


class MemoryConnector(ConnectorConnection):
    """The connector's end."""

    def __init__(self, registrar: Registrar, handler: StreamHandler) -> None:
        self._registrar = registrar
        self.edge = MemoryEdge(registrar, handler)

    async def register(self, request: RegistrationRequest) -> Registered:
        connector = replace(request.connector, address="memory", protocol="memory")
        self.edge.request = replace(request, connector=connector)
        try:
            registered = await self._registrar.register(self.edge.request)
        except RegistrationRefused:
            self.edge.closed.set_result(None)
            raise
        self.edge.registered = registered
        self._registrar.connection_ready(self.edge)
        return registered

    async def unregister(self) -> None:
        if self.edge.closed.done():
            raise ConnectionLost("connection with edge closed")
        self._registrar.connection_draining(self.edge)
        self.edge.drain()

    @property
    def open_streams(self) -> int:
        return self.edge.open_streams

    def close(self) -> None:
        self.edge.close()

    async def wait_closed(self) -> Exception | None:
        await self.edge.wait_closed()
        return None
