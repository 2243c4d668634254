"""A running proxy, the far end of a tunnel stream, and upstreams that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from qanat.errors import QanatError
from qanat.net.dial import StandIn
from qanat.net.http1 import (
    BodyReceived,
    HTTPEvent,
    MessageEnded,
    RequestReader,
    RequestReceived,
    ResponseReader,
    ResponseReceived,
)
from qanat.net.http1_fields import Headers, values
from qanat.net.tls import TLSClient
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.net.websocket import WebSocketClient
from qanat.pki.material import Pair
from qanat.proxy.config import ProxyConfig, parse_config
from qanat.proxy.dial import Lookup
from qanat.proxy.document import Document
from qanat.proxy.proxy import Proxy
from qanat.proxy.route import BuildFilter
from qanat.proxy.server import RunningProxy, serve
from tests.support.pki import throwaway_ca, throwaway_server

DOMAIN = "t.example"
LOOPBACK = {"allowed_ips": ["127.0.0.0/8"]}
WAIT = 20.0
"""Seconds any single thing may take on a busy machine."""


@dataclass(frozen=True)
class TestPKI:
    """A CA, and where its server certificate for `*.t.example` lies."""

    __test__ = False
    ca: Pair
    cert_file: Path
    key_file: Path

    def context(self, *alpn: str) -> ssl.SSLContext:
        """A client that trusts the CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.ca.certificate_pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def renew(self) -> None:
        """A new certificate and key, in place."""
        write_pair(throwaway_server(self.ca, DOMAIN), self.cert_file, self.key_file)


def write_pair(pair: Pair, cert_file: Path, key_file: Path) -> None:
    cert_file.write_bytes(pair.certificate_pem)
    key_file.write_bytes(pair.key_pem)


def make_pki(folder: Path) -> TestPKI:
    """A new CA and a server certificate in `folder`."""
    pki = TestPKI(throwaway_ca(), folder / "tls.crt", folder / "tls.key")
    pki.renew()
    return pki


def config_data(pki: TestPKI, routes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A configuration file's content: loopback may be dialled, port 0 everywhere."""
    data: dict[str, Any] = {
        "listen_addr": "127.0.0.1:0",
        "tunnel_domain": DOMAIN,
        "tls": {"cert_file": str(pki.cert_file), "key_file": str(pki.key_file)},
        "routes": routes,
        "upstream": dict(LOOPBACK),
        "shutdown_timeout": "3s",
    }
    data.update(changes)
    return data


def make_config(pki: TestPKI, routes: dict[str, Any], **changes: Any) -> ProxyConfig:
    return parse_config(Document(yaml.safe_dump(config_data(pki, routes, **changes)).encode(), "config.yaml"))


@dataclass
class TunnelEnd:
    """A running proxy as a caller at the other end of the tunnel reaches it."""

    running: RunningProxy
    pki: TestPKI
    _open: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def proxy(self) -> Proxy:
        return self.running.proxy

    @property
    def address(self) -> tuple[str, int]:
        assert self.running.address is not None
        return self.running.address

    def hang_up(self) -> None:
        """Abort every session that `connect` has opened."""
        for writer in self._open:
            writer.transport.abort()

    async def open_websocket(self, above: Receiver) -> Transport:
        """Upgrade a connection and put `above` on the WebSocket's byte stream."""
        return await upgrade(self.address, WebSocketClient(above))

    async def connect(self, *alpn: str, sni: str = f"echo.{DOMAIN}", context: ssl.SSLContext | None = None) -> Inner:
        """An inner TLS session, to be read and written like any asyncio stream."""
        reader = asyncio.StreamReader(limit=2**20)
        protocol = asyncio.StreamReaderProtocol(reader)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(error: Exception) -> None:
            if not ready.done():
                ready.set_exception(error)

        tls = TLSClient(StandIn(protocol, ready), context or self.pki.context(*alpn), sni, on_failure=fail)
        transport = await self.open_websocket(tls)
        async with asyncio.timeout(WAIT):
            await ready
        writer = asyncio.StreamWriter(cast(Any, tls), protocol, reader, asyncio.get_running_loop())
        self._open.append(writer)
        return Inner(reader, writer, tls, transport)


@dataclass
class Answer:
    """An HTTP answer, whole."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers
    informational: list[ResponseReceived]

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for value in values(self.headers, name.lower().encode())]

    def one(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, found
        return found[0] if found else None


@dataclass
class Inner:
    """A caller's inner TLS session speaking HTTP/1.1."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tls: TLSClient
    raw: Transport
    parser: ResponseReader = field(default_factory=ResponseReader)

    async def ask(self, head: str, body: bytes = b"") -> Answer:
        """Send a request written with bare line breaks; return its answer."""
        self.send(head, body)
        return await self.answer(head.split(" ")[0])

    def send(self, head: str, body: bytes = b"") -> None:
        lines = head.strip("\n").split("\n")
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def answer(self, method: str = "GET") -> Answer:
        """The whole of the next answer."""
        got = await self.head(method)
        informational = []
        while got.informational:
            informational.append(got)
            got = await self.expect(ResponseReceived)
        body: list[bytes] = []
        trailers: Headers = ()
        async for event in self.rest():
            if isinstance(event, BodyReceived):
                body.append(event.data)
            elif isinstance(event, MessageEnded):
                trailers = event.trailers
        return Answer(got.status, got.headers, b"".join(body), trailers, informational)

    async def head(self, method: str = "GET") -> ResponseReceived:
        """The head of the next answer."""
        self.parser.expect(method.encode())
        self._events = self.parser.events_received()
        got: ResponseReceived = await self.expect(ResponseReceived)
        return got

    async def rest(self) -> AsyncIterator[HTTPEvent]:
        """The answer's body, up to and with its end. An unclean end is an `EOFError`."""
        while True:
            event = await self.event()
            yield event
            if isinstance(event, MessageEnded):
                return

    async def expect(self, kind: type[Any]) -> Any:
        """What comes next, which must be of that kind."""
        event = await self.event()
        assert isinstance(event, kind), event
        return event

    async def event(self) -> HTTPEvent:
        """What comes next on the connection."""
        while not self._events:
            try:
                async with asyncio.timeout(WAIT):
                    data = await self.reader.read(65536)
            except QanatError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self.parser.receive_data(data)
            self._events = self.parser.events_received()
        return self._events.pop(0)

    _events: list[HTTPEvent] = field(default_factory=list)

    async def closed(self) -> bytes:
        """Wait for the proxy to close the session; returns what was still sent."""
        async with asyncio.timeout(WAIT):
            return await self.reader.read()

    def abort(self) -> None:
        """Vanish: no close_notify, no Close frame."""
        self.raw.abort()


async def upgrade(address: tuple[str, int], above: Receiver, target: str = "/") -> Transport:
    """A connector's dial: TCP to the proxy, the WebSocket handshake, then `above` takes over."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    class Handshake(Receiver):
        got = b""

        def data_received(self, data: bytes) -> None:
            self.got += data
            if b"\r\n\r\n" in self.got and not done.done():
                transport.set_protocol(as_protocol(above))
                done.set_result(self.got)

        def connection_lost(self, exc: Exception | None) -> None:
            if not done.done():
                done.set_exception(ConnectionError(self.got.decode("latin-1") or "closed"))

    transport, _ = await loop.create_connection(lambda: as_protocol(Handshake()), *address)
    transport.write(
        f"GET {target} HTTP/1.1\r\nHost: localhost:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    async with asyncio.timeout(WAIT):
        got = await done
    head, _, rest = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        transport.abort()
        raise ConnectionError(head.decode("latin-1"))
    above.connection_made(transport)
    if rest:
        above.data_received(rest)
    return transport


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing announces, looking at every turn of a few milliseconds."""
    async with asyncio.timeout(WAIT):
        while not condition():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.005)


@asynccontextmanager
async def proxy_running(
    pki: TestPKI,
    routes: dict[str, Any],
    *,
    lookup: Lookup | None = None,
    build_filter: BuildFilter | None = None,
    config_path: Path | None = None,
    certificate_interval: float = 10.0,
    **changes: Any,
) -> AsyncIterator[TunnelEnd]:
    """A proxy on a port of its own."""
    config = make_config(pki, routes, **changes)
    async with serve(
        config,
        config_path=config_path,
        lookup=lookup,
        build_filter=build_filter,
        certificate_interval=certificate_interval,
    ) as running:
        end = TunnelEnd(running, pki)
        try:
            yield end
        finally:
            end.hang_up()


@dataclass
class SeenRequest:
    """A request as an upstream got it."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    trailers: Headers = ()

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for value in values(self.headers, name.lower().encode())]


@dataclass
class UpstreamPeer:
    """One connection to a scripted upstream."""

    upstream: Upstream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parser: RequestReader = field(default_factory=RequestReader)
    events: list[HTTPEvent] = field(default_factory=list)

    async def head(self) -> SeenRequest:
        """The next request's head. Raises `EOFError` when the proxy closes the connection instead."""
        event = await self._event()
        assert isinstance(event, RequestReceived)
        seen = SeenRequest(event.method.decode(), event.target.decode("latin-1"), event.headers)
        self.upstream.seen.append(seen)
        return seen

    async def request(self) -> SeenRequest:
        """The next request, whole."""
        seen = await self.head()
        await self.rest(seen)
        return seen

    async def rest(self, seen: SeenRequest) -> None:
        """The body of the request whose head has been read."""
        while not isinstance(event := await self._event(), MessageEnded):
            assert isinstance(event, BodyReceived)
            seen.body += event.data
        seen.trailers = event.trailers
        self.parser.next_message()
        self.events += self.parser.events_received()

    async def _event(self) -> HTTPEvent:
        while not self.events:
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self.parser.receive_data(data)
            self.events += self.parser.events_received()
        return self.events.pop(0)

    def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode("latin-1") if isinstance(text, str) else text)

    def answer(self, body: bytes = b"ok", *headers: str, status: str = "200 OK") -> None:
        self.send("\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body)

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[UpstreamPeer], Awaitable[None]]


@dataclass
class Upstream:
    """A scripted HTTP server on loopback: `script` runs for each connection."""

    script: Script
    port: int = 0
    connections: int = 0
    open: int = 0
    seen: list[SeenRequest] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def idle(self, left: int = 0) -> None:
        """Wait until no more than `left` connections are open, and there have been any."""
        while self.open > left or not self.connections:
            self.changed.clear()
            await self.changed.wait()


async def echo(peer: UpstreamPeer) -> None:
    """Answers every request with what it got."""
    while True:
        seen = await peer.request()
        peer.answer(f"{seen.method} {seen.target} ".encode() + seen.body, "Content-Type: text/plain")


@asynccontextmanager
async def upstream_running(
    script: Script = echo, context: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Upstream]:
    """A scripted upstream, by default on a port of its own; an error in the script fails the test."""
    upstream = Upstream(script)
    tasks: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream.connections += 1
        upstream.open += 1
        try:
            await script(UpstreamPeer(upstream, reader, writer))
        except (EOFError, ConnectionError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        except BaseException as error:
            errors.append(error)
        finally:
            tasks.discard(task)
            upstream.open -= 1
            upstream.changed.set()
            if not writer.is_closing():
                writer.close()

    server = await asyncio.start_server(run, host, port, ssl=context, limit=2**20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if errors:
        raise errors[0]
