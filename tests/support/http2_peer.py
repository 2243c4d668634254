"""Ends of a tunnel over HTTP/2 made by hand, and one that is as narrow as cloudflared's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qanat.net.memory import MemoryTransport, memory_pair
from qanat.net.transport import Receiver, Transport
from qanat.tunnel import control
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeHTTP2
from qanat.tunnel.http2_link import KeepAlive
from qanat.wire.control_stream import (
    ControlClient,
)
from qanat.wire.http2 import HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.http2.frames import FrameType
from qanat.wire.registration import RegisterConnection
from tests.support.http2 import OK, frames_of
from tests.support.tunnel import (
    TIMEOUT,
    Admission,
    Tunnel,
    Upstreams,
    registration,
)

CLOUDFLARED = Settings(initial_window=1024 * 1024, connection_window=1024 * 1024, max_concurrent_streams=250)
"""What cloudflared grants."""


class Peer(Receiver):
    """The other end, by hand: an HTTP/2 codec on a transport, whose events are collected."""

    transport: Transport

    def __init__(self, codec: HTTP2Connection, answer_pings: bool = True) -> None:
        self.codec, self.answers = codec, answer_pings
        self.heard: asyncio.Queue[h2.Event] = asyncio.Queue()
        self._pings_wanted, self._pinged = 2**31, asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Transport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport
        self.flush()

    def data_received(self, data: bytes) -> None:
        if not self.answers:
            return
        self._pings_wanted -= sum(kind == FrameType.PING for kind, *_ in frames_of(data))
        if self._pings_wanted <= 0:
            self._pinged.set()
        self.codec.receive_data(data)
        for event in self.codec.events_received():
            self.heard.put_nowait(event)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def flush(self) -> None:
        while data := self.codec.data_to_send():
            self.transport.write(data)

    async def pinged(self, times: int) -> None:
        """Return once as many PING frames have come."""
        self._pings_wanted = times
        await self._pinged.wait()

    async def hear(self, kind: type[h2.Event]) -> h2.Event:
        """The next event of a kind."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                event = await self.heard.get()
                if isinstance(event, kind):
                    return event


async def connector_by_hand(
    admission: Admission, settings: Settings | None = None, keep_alive: KeepAlive | None = None
) -> tuple[EdgeHTTP2, Peer]:
    """Our edge, registered with a connector made by hand; `edge` may open streams."""
    edge = EdgeHTTP2(admission, keep_alive=keep_alive)
    peer = Peer(HTTP2Connection(False, settings))
    memory_pair(peer, edge)
    await peer.hear(h2.RequestReceived)
    client = ControlClient()
    client.register(register_message())
    peer.codec.send_headers(1, OK)
    peer.codec.send_data(1, client.data_to_send())
    peer.flush()
    async with asyncio.timeout(TIMEOUT):
        await admission.connections.get()
    return edge, peer


def register_message() -> RegisterConnection:
    """The registration that `tests.support.tunnel` asks for, as it travels."""
    return control._message(registration(), b"")


async def edge_by_hand(handler: Upstreams) -> tuple[Peer, ConnectorHTTP2]:
    """Our connector, and an edge made by hand; nothing is opened yet."""
    connector = ConnectorHTTP2(handler)
    peer = Peer(HTTP2Connection(True))
    memory_pair(connector, peer)
    await peer.hear(h2.SettingsReceived)
    return peer, connector


@asynccontextmanager
async def like_cloudflared(
    upstreams: Upstreams, settings: Settings = CLOUDFLARED, keep_alive: KeepAlive | None = None
) -> AsyncIterator[Tunnel]:
    """A registered connection whose connector grants as little as cloudflared does, or as `settings` say."""
    admission = Admission()
    connector = ConnectorHTTP2(upstreams, settings=settings, keep_alive=keep_alive)
    memory_pair(EdgeHTTP2(admission), connector)
    async with asyncio.timeout(TIMEOUT):
        await connector.register(registration())
        edge = await admission.connections.get()
    yield Tunnel(edge, connector, admission, upstreams)
    edge.close()
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
        await connector.wait_closed()
