"""An HTTP/1.1 server on loopback for connectors to forward to: bodies, streams, events, WebSockets, misbehaviour.

Written with `httptools` and the WebSocket layer; whatever a test wants to happen step by step, it says through a queue.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httptools

from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.net.websocket import WebSocketServer
from qanat.wire.websocket import accept_key


class Echo(Receiver):
    """Sends back what it hears, and stops reading while it cannot."""

    transport: Transport

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Deaf(Receiver):
    """Never reads a byte."""

    def connection_made(self, transport: Transport) -> None:
        transport.pause_reading()


class UpstreamServer:
    """What requests it got, and the events it is to send."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        """Method, target, headers (names in lower case), body."""
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sockets: set[Transport] = set()
        self.websocket: Callable[[], Receiver] = Echo
        """What serves the next WebSocket."""

    @property
    def url(self) -> str:
        """For `--url`."""
        return f"http://127.0.0.1:{self.port}"


class _Connection(Receiver):
    """One connection: requests in, answers out."""

    transport: Transport

    def __init__(self, server: UpstreamServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._reset()
        self._task: asyncio.Task[None] | None = None

    def _reset(self) -> None:
        self._target, self._headers, self._body = b"", dict[str, str](), bytearray()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._server.sockets.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.sockets.discard(self.transport)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method, target = self._parser.get_method().decode(), self._target.decode()
        headers, body = self._headers, bytes(self._body)
        self._reset()
        self._server.requests.append((method, target, headers, body))
        if "upgrade" not in headers:
            self._answer(method, target, body)

    def _answer(self, method: str, target: str, body: bytes) -> None:
        match target.partition("?")[0]:
            case "/echo":
                self._send(200, body)
            case "/chunks":
                self._head(200, "Transfer-Encoding: chunked", "Trailer: X-Sum")
                self.transport.write(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n")
            case "/events":
                self._head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
                self._task = asyncio.get_running_loop().create_task(self._send_events())
            case "/broken":
                self._head(200, "Content-Length: 1000")
                self.transport.write(b"only the beginning")
                self.transport.close()
            case "/silent":
                self.transport.close()
            case "/teapot":
                self._send(418, b"short and stout", "X-Pot: tea", "X-Pot: more", "Set-Cookie: a=1", "Set-Cookie: b=2")
            case "/early":
                self.transport.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
                self._send(200, b"late")
            case "/until-close":
                self.transport.write(b"HTTP/1.1 200 OK\r\n\r\nno length")
                self.transport.close()
            case _:
                self._send(200, b"" if method == "HEAD" else f"{method} {target}".encode(), "Content-Type: text/plain")

    async def _send_events(self) -> None:
        while (event := await self._server.events.get()) is not None:
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.transport.write(b"0\r\n\r\n")

    def _send(self, status: int, body: bytes, *lines: str) -> None:
        self._head(status, f"Content-Length: {len(body)}", *lines)
        self.transport.write(body)

    def _head(self, status: int, *lines: str) -> None:
        self.transport.write(("\r\n".join([f"HTTP/1.1 {status} Whatever", *lines]) + "\r\n\r\n").encode())

    def _upgrade(self, rest: bytes) -> None:
        _, target, headers, _ = self._server.requests[-1]
        if target == "/refused":
            self._send(403, b"no sockets here")
            return
        accept = accept_key(headers["sec-websocket-key"])
        lines = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
        if "sec-websocket-protocol" in headers:
            lines.append(f"Sec-WebSocket-Protocol: {headers['sec-websocket-protocol']}")
        self._head(101, *lines)
        layer = WebSocketServer(self._server.websocket())
        self.transport.set_protocol(_Tracked(layer, self._server))
        layer.connection_made(self.transport)
        if rest:
            layer.data_received(rest)


class _Tracked(Receiver):
    """Passes on, and tells the server of the end."""

    def __init__(self, above: WebSocketServer, server: UpstreamServer) -> None:
        self._above, self._server = above, server
        self.data_received = above.data_received  # type: ignore[method-assign]  # the byte path, without a detour
        self.eof_received = above.eof_received  # type: ignore[method-assign]  # the same
        self.pause_writing = above.pause_writing  # type: ignore[method-assign]  # the same
        self.resume_writing = above.resume_writing  # type: ignore[method-assign]  # the same

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.sockets.discard(self._above.below)
        self._above.connection_lost(exc)


@asynccontextmanager
async def upstream_server(unix: str = "", tls: ssl.SSLContext | None = None) -> AsyncIterator[UpstreamServer]:
    """A listening server, on TCP or on a unix socket."""
    server, loop = UpstreamServer(), asyncio.get_running_loop()
    if unix:
        listener = await loop.create_unix_server(lambda: as_protocol(_Connection(server)), unix)
    else:
        listener = await loop.create_server(lambda: as_protocol(_Connection(server)), "127.0.0.1", 0, ssl=tls)
        server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for socket in list(server.sockets):
            socket.abort()
        await listener.wait_closed()
        await asyncio.sleep(0)
