"""Callers that keep calling through whichever edge answers, and count what became of each call."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qanat.wire.websocket import CloseReceived, PayloadReceived, PingReceived
from tests.support.edge import Client, OperatorFiles

GOING_AWAY = b"qanat-going-away"
CALL_TIMEOUT = 15.0


class CallLost(Exception):
    """A call was sent, and no answer came; says how the session ended."""


@dataclass
class Load:
    """`callers` sessions that each make a call every `period` seconds. A call is 64 bytes and their echo.

    A session that is told to go away is left after the running call. One that breaks with a call under way has lost
    that call; a dial that fails is no call: the next address is tried.
    """

    addresses: Sequence[tuple[str, int]]
    files: OperatorFiles
    host: str
    callers: int = 20
    period: float = 0.1
    done: int = 0
    lost: list[tuple[float, str]] = field(default_factory=list)
    """When each lost call was known to be lost, and how its session ended."""
    redials: int = 0
    slowest: float = 0.0
    answered: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context = self.files.client_context()
        self._turn: Iterator[int] = itertools.count()

    async def call_until(self, stop: asyncio.Event) -> None:
        """Every caller, until `stop` is set and its last call is answered."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.callers):
                tasks.create_task(self._caller(stop))

    async def _caller(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            session = await self._dial()
            try:
                await self._use(session, stop)
            except CallLost as error:
                self.lost.append((asyncio.get_running_loop().time(), str(error)))
            finally:
                await session.close()

    async def _dial(self) -> Client:
        async with asyncio.timeout(CALL_TIMEOUT):
            while True:
                address = self.addresses[next(self._turn) % len(self.addresses)]
                try:
                    session = await Client.dial(address, self._context)
                except (OSError, ssl.SSLError):
                    self.redials += 1
                    await asyncio.sleep(0.01)
                    continue
                try:
                    if (await session.upgrade(self.host)).status == 101:
                        return session
                except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
                    pass
                self.redials += 1
                await session.close()

    async def _use(self, session: Client, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            started = loop.time()
            leaving = await self._call(session)
            self.done += 1
            self.answered.append(loop.time())
            self.slowest = max(self.slowest, loop.time() - started)
            if leaving:
                return
            await asyncio.sleep(self.period)

    async def _call(self, session: Client) -> bool:
        """One call; True when the session said meanwhile that it goes away."""
        payload, received, leaving = bytes(64), 0, False
        session.codec.send_payload(payload)
        session.writer.write(session.codec.data_to_send())
        while received < len(payload):
            try:
                event = await session.event()
            except (OSError, ssl.SSLError) as error:
                raise CallLost(type(error).__name__) from error
            match event:
                case PayloadReceived(data):
                    received += len(data)
                case PingReceived(told):
                    leaving = leaving or told == GOING_AWAY
                case CloseReceived(close_code, reason):
                    raise CallLost(f"{close_code} {reason}")
                case _:
                    raise CallLost("end of stream")
        return leaving
