"""The end of a tunnel as `httpcore2` wants it: a stream to await, over transports that push."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

import httpcore2

from qanat.client.errors import TunnelLost, to_lost
from qanat.net.layer import HIGH_WATER, LOW_WATER
from qanat.net.transport import Receiver, Transport

FAREWELL = 1.0
"""Seconds that closing waits for the other end."""


class StreamReceiver(Receiver):
    """Keeps what arrived until somebody reads it, and stops the sender when that is too much."""

    transport: Transport

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.lost = asyncio.Event()
        """Set once the connection is gone for good."""
        self.failure: TunnelLost | None = None
        self._paused = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._readable.set()
        if len(self.buffer) > HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool | None:
        self.ended = True
        self._readable.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if exc is not None:
            self.failure = to_lost(exc, self.transport.get_extra_info("websocket_failure"))
        self.lost.set()
        self._readable.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def take(self, max_bytes: int) -> bytes:
        """The next bytes; none at the end. Raises `TunnelLost` when the end was not clean."""
        if not self.buffer and not self.ended:
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self.buffer[:max_bytes])
        del self.buffer[:max_bytes]
        if self._paused and len(self.buffer) < LOW_WATER:
            self._paused = False
            self.transport.resume_reading()
        if not data and self.failure is not None:
            raise self.failure
        return data

    async def give(self, data: bytes) -> None:
        """Send `data`, and return once there is room for more."""
        if self.ended or self.transport.is_closing():
            raise httpcore2.WriteError(str(self.failure or "the connection is closed"))
        self.transport.write(data)
        await self._writable.wait()


class TunnelStream(httpcore2.AsyncNetworkStream):
    """A connected session with a server behind a tunnel. TLS is on already."""

    def __init__(self) -> None:
        self.receiver = StreamReceiver()

    def on_going_away(self, call: Callable[[], None]) -> None:
        """Have `call` called when the edge asks for no more on this stream."""
        websocket = self.receiver.transport.get_extra_info("websocket")
        websocket.on_going_away = call
        if websocket.going_away:
            call()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self.receiver.take(max_bytes)
        except TimeoutError:
            raise httpcore2.ReadTimeout("reading through the tunnel timed out") from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.receiver.give(buffer)
        except TimeoutError:
            raise httpcore2.WriteTimeout("writing through the tunnel timed out") from None

    async def aclose(self) -> None:
        """Say goodbye, and wait a moment for the other end's: a program may end right after this."""
        self.receiver.transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self.receiver.lost.wait()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """The stream itself: inner TLS belongs to the dialling, and no other trust than the tunnel's applies."""
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self.receiver.transport.get_extra_info("ssl_object")
        if info == "is_readable":  # asked of idle connections: anything to read there means the end
            leaving = self.receiver.transport.get_extra_info("going_away")  # the edge drains: dial again instead
            return bool(self.receiver.buffer) or self.receiver.ended or bool(leaving)
        return None
