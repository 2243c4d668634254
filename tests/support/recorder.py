"""A protocol that writes down what it hears, and lets a test wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qanat.net.transport import Receiver, Transport

TIMEOUT = 20.0


class Recorder(Receiver):
    """The top of a stack of layers, or one end of a memory pair."""

    transport: Transport

    def __init__(self) -> None:
        self.data = bytearray()
        self.heard: list[str] = []
        """`made`, `eof`, `lost`, `paused`, `resumed`, in order; data is not listed."""
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._changed.set()

    def eof_received(self) -> bool | None:
        self._note("eof")
        return False

    def pause_writing(self) -> None:
        self._note("paused")

    def resume_writing(self) -> None:
        self._note("resumed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` holds; something must happen here for it to be looked at again."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def wait_for(self, what: str) -> None:
        """Return once `what` has been heard."""
        await self.wait_until(lambda: what in self.heard)

    async def wait_for_bytes(self, count: int) -> bytes:
        """The data, once there are that many bytes of it."""
        await self.wait_until(lambda: len(self.data) >= count)
        return bytes(self.data)

    def _note(self, what: str) -> None:
        self.heard.append(what)
        self._changed.set()


async def settle() -> None:
    """Let everything run that is due now: enough turns of the loop for a few layers."""
    for _ in range(20):
        await asyncio.sleep(0)
