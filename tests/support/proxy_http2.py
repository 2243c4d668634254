"""A caller's inner TLS session speaking HTTP/2, frame by frame where a test wants it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from qanat.wire.http2 import HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from tests.support.proxy import DOMAIN, WAIT, Inner, TunnelEnd


@dataclass
class H2Session:
    """The client's end. Events wait in `events` until a test asks for them."""

    inner: Inner
    codec: HTTP2Connection
    events: list[h2.Event] = field(default_factory=list)

    @classmethod
    async def open(cls, end: TunnelEnd, settings: Settings | None = None) -> H2Session:
        """Agree on h2 and exchange settings."""
        session = cls(await end.connect("h2"), HTTP2Connection(client=True, settings=settings))
        session.flush()
        await session.until(h2.SettingsReceived)
        return session

    def flush(self) -> None:
        while data := self.codec.data_to_send():
            self.inner.writer.write(data)

    def ask(self, method: str, path: str, *headers: tuple[str, str], end: bool = True, host: str = "") -> int:
        """Send a request's head; returns its stream."""
        pseudo = ((":method", method), (":scheme", "https"), (":path", path), (":authority", host or f"echo.{DOMAIN}"))
        stream = self.codec.open_stream((*pseudo, *headers), end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, end: bool = False) -> None:
        self.codec.send_data(stream, data)
        if end:
            self.codec.end_stream(stream)
        self.flush()

    def reset(self, stream: int) -> None:
        self.codec.reset_stream(stream)
        self.flush()

    async def head(self, stream: int) -> dict[str, str]:
        """The answer's head on a stream."""
        return dict((await self.until(h2.ResponseReceived, stream)).headers)

    async def data(self, stream: int, acknowledge: bool = True) -> bytes:
        """The next piece of a stream's body."""
        event: h2.DataReceived = await self.until(h2.DataReceived, stream)
        if acknowledge:
            self.codec.acknowledge(stream, len(event.data))
            self.flush()
        return event.data

    async def body(self, stream: int) -> bytes:
        """The rest of a stream's body."""
        body = b""
        while True:
            event = await self.until((h2.DataReceived, h2.StreamEnded), stream)
            if isinstance(event, h2.StreamEnded):
                return body
            body += event.data
            self.codec.acknowledge(stream, len(event.data))
            self.flush()

    async def until(self, kind: Any, stream: int | None = None) -> Any:
        """The first event of that kind, on that stream; others are kept."""
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    return self.events.pop(index)
            async with asyncio.timeout(WAIT):
                data = await self.inner.reader.read(65536)
            if not data:
                raise EOFError
            self.codec.receive_data(data)
            self.events += self.codec.events_received()
            self.flush()
