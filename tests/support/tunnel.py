"""Both ends of a tunnel connection over each carrier, and the people at its ends: a registrar, handlers, a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from qanat.net.memory import memory_pair
from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketClient, WebSocketServer
from qanat.pki.issue import CONNECTOR_LISTENER_NAMES, issue_listener
from qanat.tunnel.connection import (
    ConnectorConnection,
    ConnectorInfo,
    EdgeConnection,
    Headers,
    IncomingStream,
    Registered,
    RegistrationRefused,
    RegistrationRequest,
    RequestHead,
    ResponseHead,
    StreamHandler,
    StreamKind,
    StreamProtocol,
)
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeHTTP2
from qanat.tunnel.memory import MemoryConnector
from qanat.tunnel.quic_udp import dial_quic, listen_quic
from tests.support.pki import now, serial, throwaway_ca

TIMEOUT = 20.0
SECRET = b"a secret of thirty-two bytes ...."
WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
WEBSOCKET_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def registration(conn_index: int = 0, secret: bytes = SECRET) -> RegistrationRequest:
    """What a connector asks."""
    connector = ConnectorInfo(UUID(int=2), "qanat/test", "linux_amd64", ("serialized_headers",), "", "")
    return RegistrationRequest("account", UUID(int=1), secret, conn_index, connector)


class Admission:
    """A registrar that admits whoever knows the secret, and remembers what it was told."""

    def __init__(self, remotely_managed: bool = True) -> None:
        self.connections: asyncio.Queue[EdgeConnection] = asyncio.Queue()
        self.told: list[str] = []
        self.requests: list[RegistrationRequest] = []
        self.remotely_managed = remotely_managed

    async def register(self, request: RegistrationRequest) -> Registered:
        self.requests.append(request)
        if request.secret != SECRET:
            raise RegistrationRefused("Unauthorized: wrong secret", retry_after=3.0)
        return Registered(UUID(int=3), "test-edge", self.remotely_managed)

    def connection_ready(self, connection: EdgeConnection) -> None:
        self.told.append("ready")
        self.connections.put_nowait(connection)

    def connection_draining(self, connection: EdgeConnection) -> None:
        self.told.append("draining")

    def connection_lost(self, connection: EdgeConnection, exc: Exception | None) -> None:
        self.told.append("lost")


class Upstream(Receiver):
    """A handler's protocol: answers with `answer`, echoes what it hears, and can be stopped from reading."""

    stream: IncomingStream

    def __init__(self, answer: ResponseHead, echo: bool = True, reading: bool = True) -> None:
        self._answer, self._echo, self._reading = answer, echo, reading
        self.received = bytearray()
        self.body_ended = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: IncomingStream) -> None:
        self.stream = transport
        if not self._reading:
            transport.pause_reading()
        transport.respond(self._answer)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._echo:
            self.stream.write(data)

    def eof_received(self) -> bool:
        self.body_ended.set()
        if self._echo:
            self.stream.close()
        return True

    def pause_writing(self) -> None:
        self.stream.pause_reading()

    def resume_writing(self) -> None:
        self.stream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


ACCEPTED = ResponseHead(
    101, (("Connection", "Upgrade"), ("Sec-Websocket-Accept", WEBSOCKET_ACCEPT), ("Upgrade", "websocket"))
)


class Upstreams:
    """A stream handler that makes an `Upstream` of each stream and keeps them."""

    def __init__(self, make: Callable[[RequestHead], Receiver] | None = None) -> None:
        self._make = make or self._default
        self.opened: asyncio.Queue[Any] = asyncio.Queue()
        self.heads: list[RequestHead] = []

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        self.heads.append(stream.head)
        protocol = self._make(stream.head)
        self.opened.put_nowait(protocol)
        return protocol

    def _default(self, head: RequestHead) -> Upstream:
        return Upstream(ACCEPTED if head.kind is StreamKind.WEBSOCKET else ResponseHead(200))


class Client(StreamProtocol):
    """The edge's side of a stream: collects what comes."""

    transport: Transport

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[ResponseHead] = loop.create_future()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()
        self.trailers: Headers = ()
        self.received = bytearray()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self._arrived = asyncio.Event()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def response_received(self, head: ResponseHead) -> None:
        self.head.set_result(head)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._arrived.set()

    def trailers_received(self, trailers: Headers) -> None:
        self.trailers = trailers

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self._arrived.set()

    async def receive(self, size: int) -> bytes:
        """The first `size` bytes received and not yet taken; fewer if the stream ends before."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.received) < size and not self.lost.done():
                self._arrived.clear()
                await self._arrived.wait()
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    async def answer(self) -> ResponseHead:
        """The response head."""
        async with asyncio.timeout(TIMEOUT):
            return await self.head

    async def ended(self) -> Exception | None:
        """How the stream ended."""
        async with asyncio.timeout(TIMEOUT):
            return await self.lost


def websocket_request(path: str = "/") -> RequestHead:
    """A WebSocket opening."""
    headers = (("Host", "app.example"), ("Sec-WebSocket-Key", WEBSOCKET_KEY), ("Sec-WebSocket-Version", "13"))
    return RequestHead(StreamKind.WEBSOCKET, "GET", "app.example", path, headers)


def http_request(method: str = "GET", path: str = "/", headers: Headers = (), has_body: bool = False) -> RequestHead:
    """A plain request."""
    return RequestHead(StreamKind.HTTP, method, "app.example", path, headers, has_body)


@dataclass
class Tunnel:
    """A registered connection: both ends and their people."""

    edge: EdgeConnection
    connector: ConnectorConnection
    admission: Admission
    upstreams: Upstreams
    clients: list[Client] = field(default_factory=list)

    def open(self, head: RequestHead) -> Client:
        """Open a stream from the edge."""
        client = Client()
        self.edge.open_stream(head, client)
        self.clients.append(client)
        return client

    async def open_websocket(self) -> tuple[Client, Upstream]:
        """An accepted WebSocket: the client, and the upstream that answers it."""
        client = self.open(websocket_request())
        assert (await client.answer()).status == 101
        async with asyncio.timeout(TIMEOUT):
            return client, await self.upstreams.opened.get()


@asynccontextmanager
async def _memory(admission: Admission, handler: StreamHandler) -> AsyncIterator[ConnectorConnection]:
    yield MemoryConnector(admission, handler)


@asynccontextmanager
async def _http2(admission: Admission, handler: StreamHandler) -> AsyncIterator[ConnectorConnection]:
    connector = ConnectorHTTP2(handler)
    memory_pair(EdgeHTTP2(admission), connector)
    yield connector


@asynccontextmanager
async def _wss(admission: Admission, handler: StreamHandler) -> AsyncIterator[ConnectorConnection]:
    connector = ConnectorHTTP2(handler)
    memory_pair(WebSocketServer(EdgeHTTP2(admission, "wss")), WebSocketClient(connector))
    yield connector


@asynccontextmanager
async def _quic(admission: Admission, handler: StreamHandler) -> AsyncIterator[ConnectorConnection]:
    ca = throwaway_ca()
    pair = issue_listener(ca, CONNECTOR_LISTENER_NAMES, now(), serial())
    listener = await listen_quic("127.0.0.1", 0, admission, pair.certificate_pem, pair.key_pem)
    try:
        yield await dial_quic(*listener.address, handler, ca.certificate_pem)
    finally:
        await listener.close()


Carrier = Callable[[Admission, StreamHandler], Any]
CARRIERS: dict[str, Carrier] = {"memory": _memory, "http2": _http2, "wss": _wss, "quic": _quic}
"""By name: opens a context with the connector's end of a fresh connection, whose other end asks the admission."""


@asynccontextmanager
async def tunnel(
    carrier: str, upstreams: Upstreams | None = None, admission: Admission | None = None
) -> AsyncIterator[Tunnel]:
    """A registered connection over a carrier; closed, and awaited, at the end."""
    admission, upstreams = admission or Admission(), upstreams or Upstreams()
    async with CARRIERS[carrier](admission, upstreams) as connector:
        async with asyncio.timeout(TIMEOUT):
            await connector.register(registration())
            edge = await admission.connections.get()
        try:
            yield Tunnel(edge, connector, admission, upstreams)
        finally:
            edge.close()
            connector.close()
            async with asyncio.timeout(TIMEOUT):
                await edge.wait_closed()
                await connector.wait_closed()
