"""The tunnel where only port 443 is open: the HTTP/2 connection of `http2.py` inside a WebSocket over TLS.

A connector may leave through an HTTP proxy by CONNECT. Behind the upgrade nothing is new: roles, registration and
streams are those of HTTP/2, the bytes merely travel in binary messages.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from qanat.errors import ProtocolError, QanatError
from qanat.net.dial import start_tls
from qanat.net.errors import HTTPViolation
from qanat.net.http1 import RequestReader, RequestReceived
from qanat.net.http1_fields import Headers, encode_head, parse_fields, tokens, values
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.net.websocket import WebSocketClient, WebSocketServer
from qanat.tunnel.connection import Registrar, StreamHandler
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeHTTP2
from qanat.wire.addresses import join_host_port
from qanat.wire.websocket import accept_key

PATH = "/.qanat/connector"
SUBPROTOCOL = "qanat-tunnel-v1"
PROTOCOL = "wss"
MAX_ANSWER = 16 * 1024
UPGRADE_TIMEOUT = 10.0


@dataclass(eq=False)
class UpgradeRefused(QanatError):
    """The far end, or a proxy on the way, answered something else than what was asked for."""

    code: ClassVar[str] = "upgrade_refused"
    status: ClassVar[int] = 502
    retryable: ClassVar[bool] = True
    who: str
    answer: str

    def __str__(self) -> str:
        return f"{self.who} answered {self.answer}"


@dataclass(frozen=True, slots=True)
class HTTPProxy:
    """An HTTP proxy to leave through: `http://` or `https://`, perhaps with a name and password."""

    host: str
    port: int
    is_https: bool = False
    authorization: str = field(default="", repr=False)


def parse_proxy(url: str) -> HTTPProxy:
    """The proxy in a URL; a bare `host:port` is taken for `http://`. Raises `ValueError`, without the URL's text."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the proxy must be an http:// or https:// URL")
    is_https = parts.scheme == "https"
    authorization = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
    return HTTPProxy(parts.hostname, parts.port or (443 if is_https else 80), is_https, authorization)


# The connector's end.


@dataclass(frozen=True, slots=True)
class Way:
    """Where an edge is met, and how to get out there."""

    host: str
    port: int = 443
    path: str = PATH
    proxy: HTTPProxy | None = None
    local_addr: tuple[str, int] | None = None
    """The local address to leave from."""


async def dial_wss(
    way: Way, handler: StreamHandler, context: ssl.SSLContext, *, timeout: float = 15.0
) -> ConnectorHTTP2:
    """A connection to an edge's client port, ready to register.

    Raises `UpgradeRefused`, `TLSFailed`, `OSError`, or `TimeoutError`.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    exchange = _Exchange(_upgrade_request(way, key))

    async def connect(protocol: Receiver) -> None:
        await _connect(way, protocol, timeout)

    async with asyncio.timeout(timeout):
        tls = await start_tls(connect, exchange, context, way.host, timeout=timeout)
        try:
            answer = await exchange.answered
            _check_upgrade(answer, key)
        except BaseException:
            tls.abort()
            raise
    connection = ConnectorHTTP2(handler)
    _hand_over(tls, WebSocketClient(connection), answer.rest)
    return connection


async def _connect(way: Way, above: Receiver, timeout: float) -> None:
    """TCP to the edge, or a proxy's tunnel to it, with `above` on top."""
    loop, proxy = asyncio.get_running_loop(), way.proxy
    if proxy is None:
        await loop.create_connection(lambda: as_protocol(above), way.host, way.port, local_addr=way.local_addr)
        return
    exchange = _Exchange(_connect_request(way, proxy))

    async def connect(protocol: Receiver) -> Transport:
        transport, _ = await loop.create_connection(
            lambda: as_protocol(protocol), proxy.host, proxy.port, local_addr=way.local_addr
        )
        return transport

    transport: Transport
    if proxy.is_https:
        transport = await start_tls(connect, exchange, ssl.create_default_context(), proxy.host, timeout=timeout)
    else:
        transport = await connect(exchange)
    try:
        answer = await exchange.answered
        if not 200 <= answer.status < 300:
            raise UpgradeRefused("the HTTP proxy", answer.line)
    except BaseException:
        transport.abort()
        raise
    _hand_over(transport, above, answer.rest)


def _hand_over(transport: Transport, protocol: Receiver, rest: bytes) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    transport.resume_reading()
    if rest:
        protocol.data_received(rest)


def _connect_request(way: Way, proxy: HTTPProxy) -> bytes:
    authority = join_host_port(way.host, way.port).encode()
    headers = [(b"Host", authority)]
    if proxy.authorization:
        headers.append((b"Proxy-Authorization", proxy.authorization.encode()))
    return encode_head(b"CONNECT %b HTTP/1.1" % authority, headers)


def _upgrade_request(way: Way, key: str) -> bytes:
    headers = [
        (b"Host", way.host.encode() if way.port == 443 else join_host_port(way.host, way.port).encode()),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key.encode()),
        (b"Sec-WebSocket-Protocol", SUBPROTOCOL.encode()),
    ]
    return encode_head(b"GET %b HTTP/1.1" % way.path.encode(), headers)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    line: str
    headers: Headers
    rest: bytes


def _check_upgrade(answer: _Answer, key: str) -> None:
    if answer.status != 101:
        raise UpgradeRefused("the edge", answer.line)
    if values(answer.headers, b"sec-websocket-accept") != [accept_key(key).encode()]:
        raise UpgradeRefused("the edge", "an upgrade that nobody asked for")
    if values(answer.headers, b"sec-websocket-protocol") != [SUBPROTOCOL.encode()]:
        raise UpgradeRefused("the edge", "another subprotocol")


class _Exchange(Receiver):
    """Sends one request head and awaits one answer's head; then reading is paused for whoever comes next."""

    def __init__(self, request: bytes) -> None:
        self._request, self._buffer = request, b""
        self.answered: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self.answered.add_done_callback(lambda future: future.cancelled() or future.exception())

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if self.answered.done() or (not found and len(self._buffer) <= MAX_ANSWER):
            return
        self._transport.pause_reading()
        try:
            if not found:
                raise HTTPViolation("an answer with too large a head")
            self.answered.set_result(_parse_answer(head, rest))
        except ProtocolError as error:
            self.answered.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionResetError("connection closed before the upgrade"))


def _parse_answer(head: bytes, rest: bytes) -> _Answer:
    line, *fields = head.split(b"\r\n")
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not (len(parts[1]) == 3 and parts[1].isdigit()):
        raise HTTPViolation("malformed status line")
    text = b" ".join(parts[1:])[:100].decode("ascii", "replace")
    return _Answer(int(parts[1]), text, parse_fields(fields), rest)


# The edge's end.


def accept_wss(registrar: Registrar, address: str = "") -> Receiver:
    """The protocol for a TLS transport on which a connector is to ask for the upgrade. `address`: the peer's."""
    return _Door(registrar, address)


class _Door(Receiver):
    """Reads the upgrade request, answers it, and puts the tunnel connection in its own place."""

    def __init__(self, registrar: Registrar, address: str) -> None:
        self._registrar, self._address = registrar, address
        self._reader = RequestReader()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(UPGRADE_TIMEOUT, transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.receive_data(data)
        except HTTPViolation as violation:
            self._refuse(violation.answer, b"Bad Request")
            return
        for event in self._reader.events_received():
            if isinstance(event, RequestReceived):
                self._answer(event)
                return

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()

    def _answer(self, request: RequestReceived) -> None:
        keys = values(request.headers, b"sec-websocket-key")
        if request.method != b"GET" or request.target != PATH.encode():
            self._refuse(404, b"Not Found")
        elif (
            b"websocket" not in tokens(request.headers, b"upgrade")
            or values(request.headers, b"sec-websocket-version") != [b"13"]
            or SUBPROTOCOL.encode() not in tokens(request.headers, b"sec-websocket-protocol")
            or len(keys) != 1
        ):
            self._refuse(400, b"Bad Request")
        else:
            self._upgrade(keys[0].decode("latin-1"))

    def _upgrade(self, key: str) -> None:
        self._stop_timer()
        headers = [
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Accept", accept_key(key).encode()),
            (b"Sec-WebSocket-Protocol", SUBPROTOCOL.encode()),
        ]
        self._transport.write(encode_head(b"HTTP/1.1 101 Switching Protocols", headers))
        above = _From(EdgeHTTP2(self._registrar, PROTOCOL), self._address)
        _hand_over(self._transport, above, self._reader.take_rest())

    def _refuse(self, status: int, reason: bytes) -> None:
        self._stop_timer()
        headers = [(b"Content-Length", b"0"), (b"Connection", b"close")]
        self._transport.write(encode_head(b"HTTP/1.1 %d %b" % (status, reason), headers))
        self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _From(WebSocketServer):
    """The WebSocket, knowing the peer's address as a balancer told it."""

    def __init__(self, above: Receiver, address: str) -> None:
        super().__init__(above)
        self._address = address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername" and self._address:
            host, colon, port = self._address.rpartition(":")
            return (host.strip("[]"), port) if colon and port.isdigit() else (self._address, 0)
        return super().get_extra_info(name, default)
