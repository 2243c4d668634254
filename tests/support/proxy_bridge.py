"""A local port that leads through a proxy, and an ordinary HTTP client that uses it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2

from qanat.errors import QanatError
from qanat.net.splice import splice
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.net.websocket import WebSocketClient
from tests.support.proxy import DOMAIN, WAIT, TunnelEnd, upgrade

Dial = Callable[[], Awaitable[Transport]]
"""A new way into the tunnel."""


class Bridge:
    """A local TCP port whose connections come out as tunnel streams.

    Any TLS client can use it; when `dial` does the inner TLS itself, its port takes plain text.
    """

    def __init__(self, dial: Dial) -> None:
        self.port = 0
        self._dial = dial
        self._locals: set[Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Abort every connection, without a word to either side."""
        for transport in list(self._locals):
            transport.abort()
        self._locals.clear()

    async def join(self, transport: Transport, early: Callable[[], bytes]) -> None:
        try:
            far = await self._dial()
        except (OSError, QanatError):
            transport.abort()
            return
        splice(transport, far)
        far.write(early())
        self._locals.add(transport)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Local(Receiver):
    """A bridge's end towards the client."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._early = b""

    def connection_made(self, transport: Transport) -> None:
        self._bridge.spawn(self._bridge.join(transport, lambda: self._early))

    def data_received(self, data: bytes) -> None:
        self._early += data  # before the far end is there


@asynccontextmanager
async def local_port(dial: Dial) -> AsyncIterator[Bridge]:
    """A bridge on a port of its own."""
    bridge = Bridge(dial)
    server = await asyncio.get_running_loop().create_server(lambda: as_protocol(_Local(bridge)), "127.0.0.1", 0)
    bridge.port = server.sockets[0].getsockname()[1]
    try:
        yield bridge
    finally:
        server.close()
        await bridge.close()


def bridge_running(end: TunnelEnd, sni: str = "") -> AbstractAsyncContextManager[Bridge]:
    """A bridge to a proxy; with `sni` the bridge does the inner TLS."""

    async def dial() -> Transport:
        if sni:
            return (await end.connect("http/1.1", sni=sni)).tls
        holder = WebSocketClient(asyncio.Protocol())
        await upgrade(end.address, holder)
        return holder

    return local_port(dial)


class ThroughBridge(httpx2.AsyncBaseTransport):
    """An HTTP client's transport for `https://NAME.t.example/…`, by way of a bridge's port."""

    def __init__(self, port: int, context: ssl.SSLContext, http1: bool, http2: bool) -> None:
        self._port = port
        self._transport = httpx2.AsyncHTTPTransport(verify=context, http1=http1, http2=http2, trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.headers.setdefault("Host", request.url.host)
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


@asynccontextmanager
async def http_client(
    end: TunnelEnd, *, http1: bool = True, http2: bool = False, bridge: Bridge | None = None, **options: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """An ordinary HTTP client whose TLS ends in the proxy, over a bridge of its own or the one given."""
    async with AsyncExitStack() as stack:
        if bridge is None:
            bridge = await stack.enter_async_context(bridge_running(end))
        transport = ThroughBridge(bridge.port, end.pki.context(), http1, http2)
        options.setdefault("timeout", httpx2.Timeout(WAIT))
        async with httpx2.AsyncClient(transport=transport, base_url=f"https://echo.{DOMAIN}", **options) as client:
            yield client
