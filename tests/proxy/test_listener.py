"""The outer door: plain HTTP, the WebSocket upgrade, and how frames carry the inner TLS stream."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from typing import Any, cast

import pytest

from qanat.net.layer import Layer
from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketClient
from qanat.tunnel.connection import IncomingStream, RequestHead, ResponseHead, StreamKind
from qanat.wire.websocket import CloseReceived, PayloadReceived, PongReceived, WebSocketCodec
from tests.support.proxy import (
    DOMAIN,
    WAIT,
    Answer,
    Inner,
    TestPKI,
    TunnelEnd,
    proxy_running,
    upgrade,
    upstream_running,
)
from tests.support.requirements import requirement

NOWHERE = {"echo": "http://10.0.0.1:1"}
UPGRADE = "Host: x\nUpgrade: websocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


async def plain(end: TunnelEnd, head: str) -> tuple[Answer, bytes]:
    """A plain request to the listener; returns the answer and whether the connection was closed after it."""
    reader, writer = await asyncio.open_connection(*end.address)
    inner = Inner(reader, writer, None, writer.transport)  # type: ignore[arg-type]  # no TLS out here
    answer = await inner.ask(head)
    rest = await inner.closed()
    writer.close()
    return answer, rest


@requirement("proxy:22")
async def test_plain_requests_get_health_or_are_told_to_upgrade(pki: TestPKI) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        for path in ("/healthz", "/readyz", "/healthz?x=1"):
            answer, _ = await plain(end, f"GET {path} HTTP/1.1\nHost: x")
            assert (answer.status, answer.body) == (200, b"ok\n")
        assert (await plain(end, "HEAD /healthz HTTP/1.0"))[0].status == 200
        for head in ("GET / HTTP/1.1\nHost: x", "POST /healthz HTTP/1.1\nHost: x", "GET /metrics HTTP/1.1\nHost: x"):
            answer, rest = await plain(end, head)
            assert answer.status == 426
            assert answer.one("upgrade") == "websocket"
            assert "upgrade" in (answer.one("connection") or "").lower()
            assert json.loads(answer.body)["error"]["data"]["type"] == "upgrade_required"
            assert rest == b""
            assert DOMAIN.encode() not in answer.body


@requirement("proxy:22")
async def test_a_tls_client_at_the_listener_is_told_wrong_version_number(pki: TestPKI) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number|record layer failure"):
            await asyncio.open_connection(*end.address, ssl=pki.context(), server_hostname=f"echo.{DOMAIN}")


@pytest.mark.parametrize(("head", "status"), [
    (f"GET /any/path?q HTTP/1.1\n{UPGRADE}\nSec-WebSocket-Version: 13", 101),
    (f"GET / HTTP/1.1\n{UPGRADE}\nSec-WebSocket-Version: 12", 426),
    (f"GET / HTTP/1.1\n{UPGRADE}", 426),
    (f"POST / HTTP/1.1\n{UPGRADE}\nSec-WebSocket-Version: 13", 400),
    ("GET / HTTP/1.1\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Version: 13", 400),
    ("GET / HTTP/1.1\nHost: a\nHost: b\nX : y", 400),
])  # fmt: skip
async def test_which_upgrades_are_accepted(pki: TestPKI, head: str, status: int) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        reader, writer = await asyncio.open_connection(*end.address)
        writer.write(("\r\n".join(head.split("\n")) + "\r\n\r\n").encode())
        async with asyncio.timeout(WAIT):
            got = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        writer.close()
        assert got.startswith(f"http/1.1 {status} ")
        if status == 101:
            assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in got
            assert "extensions" not in got
            assert "protocol" not in got.replace("switching protocols", "")
        if status == 426:
            assert "sec-websocket-version: 13" in got


async def test_a_subprotocol_is_selected_only_from_the_configured_ones(pki: TestPKI) -> None:
    offered = "Sec-WebSocket-Protocol: a, b\nSec-WebSocket-Protocol: c"
    offers = f"GET / HTTP/1.1\n{UPGRADE}\nSec-WebSocket-Version: 13\n{offered}"
    async with proxy_running(pki, NOWHERE, websocket={"subprotocols": ["c", "b"]}) as end:
        reader, writer = await asyncio.open_connection(*end.address)
        writer.write(("\r\n".join(offers.split("\n")) + "\r\n\r\n").encode())
        assert b"Sec-WebSocket-Protocol: b\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_beyond_the_connection_cap_upgrades_get_503(pki: TestPKI) -> None:
    async with proxy_running(pki, NOWHERE, limits={"websockets": 1}) as end:
        inner = await end.connect()
        with pytest.raises(ConnectionError, match=r"HTTP/1\.1 503 ") as refused:
            await end.connect()
        assert "Retry-After: 1" in str(refused.value)
        inner.abort()
        async with asyncio.timeout(WAIT):
            while True:  # until the proxy has noticed
                try:
                    await end.connect()
                except ConnectionError:
                    continue
                break


class Frames(Receiver):
    """The raw end of a WebSocket."""

    def __init__(self) -> None:
        self.codec = WebSocketCodec(lambda: os.urandom(4))
        self.events: list[Any] = []
        self.changed = asyncio.Event()
        self.lost = False

    def connection_made(self, transport: Transport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.codec.receive_data(data)
        self.events += self.codec.events_received()
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.changed.set()

    async def until(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(WAIT):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                assert not self.lost, self.events
                self.changed.clear()
                await self.changed.wait()


@requirement("proxy:24")
@pytest.mark.parametrize(("frame", "close_code"), [
    (b"\x81\x81\x00\x00\x00\x00a", 1003), (b"\x82\x01a", 1002), (b"\xc2\x80\x00\x00\x00\x00", 1002),
    (b"\x83\x80\x00\x00\x00\x00", 1002), (b"\x80\x80\x00\x00\x00\x00", 1002), (b"\x09\x80\x00\x00\x00\x00", 1002),
])  # fmt: skip
async def test_frames_that_are_not_allowed_close_the_websocket(pki: TestPKI, frame: bytes, close_code: int) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        frames = Frames()
        transport = await upgrade(end.address, frames)
        transport.write(frame)
        closed = await frames.until(CloseReceived)
        assert closed.close_code == close_code
        assert closed.reason == ""
        transport.abort()


async def test_garbage_instead_of_tls_gets_an_alert_and_then_1002(pki: TestPKI) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        frames = Frames()
        transport = await upgrade(end.address, frames)
        frames.codec.send_payload(b"GET / HTTP/1.1\r\n\r\n")
        transport.write(frames.codec.data_to_send())
        closed = await frames.until(CloseReceived)
        assert closed.close_code == 1002
        transport.abort()


class Refragmented(Layer):
    """Below a WebSocket client: cuts its byte stream into frames as a test wants them."""

    def __init__(self, above: Receiver, style: str) -> None:
        super().__init__(above)
        self._style = style
        self._codec = WebSocketCodec(lambda: os.urandom(4))
        self.pongs = 0

    def data_received(self, data: bytes) -> None:
        self._codec.receive_data(data)
        for event in self._codec.events_received():
            if isinstance(event, PayloadReceived):
                self.above.data_received(event.data)
            elif isinstance(event, PongReceived):
                assert event.payload == b"hello"
                self.pongs += 1

    def write(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        if self._style == "bytes":
            self.below.write(b"".join(self._frame(0x82, data[i : i + 1]) for i in range(len(data))))
        elif self._style == "one":
            self.below.write(self._frame(0x82, data))
        else:  # a fragmented message with empty pieces and pings in between
            middle = len(data) // 2
            pieces = [self._frame(0x02, data[:middle]), self._frame(0x89, b"hello"), self._frame(0x00, b"")]
            self.below.write(b"".join([*pieces, self._frame(0x80, data[middle:]), self._frame(0x82, b"")]))

    def _frame(self, first: int, payload: bytes) -> bytes:
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65536:
            length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
        else:
            length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
        return bytes([first]) + length + bytes(4) + payload  # masked with zeros


@requirement("proxy:23")
@pytest.mark.parametrize("style", ["bytes", "one", "fragments"])
async def test_how_the_stream_is_cut_into_frames_does_not_matter(pki: TestPKI, style: str) -> None:
    layers: list[Refragmented] = []

    class Cut(TunnelEnd):
        async def open_websocket(self, above: Receiver) -> Transport:
            layers.append(Refragmented(above, style))
            return await upgrade(self.address, layers[0])

    body = os.urandom(4 * 2**20 if style == "one" else 3000)
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        cut = Cut(end.running, pki)
        inner = await cut.connect()
        answer = await inner.ask(f"POST / HTTP/1.1\nHost: echo.{DOMAIN}\nContent-Length: {len(body)}", body)
        assert answer.body == b"POST / " + body
        cut.hang_up()
    if style == "fragments":
        assert layers[0].pongs > 1


async def test_a_clean_end_in_both_directions_closes_with_1000(pki: TestPKI) -> None:
    closes: list[CloseReceived] = []

    class Watching(WebSocketClient):
        def _hear_close(self, event: CloseReceived) -> None:
            closes.append(event)
            super()._hear_close(event)

    class Watched(TunnelEnd):
        async def open_websocket(self, above: Receiver) -> Transport:
            return await upgrade(self.address, Watching(above))

    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await Watched(end.running, pki).connect()
        await inner.ask(f"GET / HTTP/1.1\nHost: echo.{DOMAIN}")
        inner.send(f"GET / HTTP/1.1\nHost: echo.{DOMAIN}\nConnection: close")
        await inner.answer()
        assert await inner.closed() == b""
        assert [event.close_code for event in closes] == [1000]
        inner.writer.close()


class MemoryStream:
    """A tunnel stream as a connector in this process would hand it over."""

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.response: ResponseHead | None = None
        self.written = b""
        self.closed = False

    def respond(self, head: ResponseHead) -> None:
        self.response = head

    def write_trailers(self, trailers: Any) -> None:
        raise AssertionError("no trailers here")

    def write(self, data: Any) -> None:
        assert self.response is not None
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed


async def test_streams_handed_over_in_memory_meet_the_same_door(pki: TestPKI) -> None:
    async with proxy_running(pki, NOWHERE) as end:
        headers = (("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13"))
        stream = MemoryStream(RequestHead(StreamKind.WEBSOCKET, "GET", "any", "/", headers))
        protocol = end.proxy.handle_stream(cast(IncomingStream, stream))
        protocol.connection_made(stream)
        assert stream.response is not None
        assert stream.response.status == 101
        assert ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in stream.response.headers
        assert end.proxy.websockets == 1
        protocol.connection_lost(None)
        assert end.proxy.websockets == 0
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/", 426)):
            stream = MemoryStream(RequestHead(StreamKind.HTTP, "GET", "any", path))
            end.proxy.handle_stream(cast(IncomingStream, stream)).connection_made(stream)
            assert stream.response is not None
            assert (stream.response.status, stream.closed) == (status, True)
