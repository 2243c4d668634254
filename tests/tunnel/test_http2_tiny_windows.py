"""Large transfers over the smallest windows to readers that rest: none stalls, none makes the edge keep much."""

from __future__ import annotations

import asyncio

import pytest

from qanat.net.layer import HIGH_WATER
from qanat.tunnel.connection import RequestHead
from qanat.wire.http2 import Settings
from tests.support.http2_peer import like_cloudflared
from tests.support.requirements import requirement
from tests.support.tunnel import ACCEPTED, Client, Tunnel, Upstream, Upstreams, websocket_request

SIZE = 64 * 1024 * 1024
PIECE = bytes(64 * 1024)
TIMES, AT_ONCE = 20, 4
REST_AFTER = 2 * 1024 * 1024
NARROW = Settings(initial_window=65_535, connection_window=1024 * 1024, max_concurrent_streams=250)
"""The smallest window that a stream can have from its start."""


class Resting(Upstream):
    """Reads and forgets; stops after every few megabytes until the loop has gone round."""

    def __init__(self) -> None:
        super().__init__(ACCEPTED, echo=False)
        self.taken = self._rested = 0
        self.complete = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.taken += len(data)
        if self.taken == SIZE:
            self.complete.set()
        elif self.taken - self._rested > REST_AFTER:
            self._rested = self.taken
            self.stream.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.stream.resume_reading)


class Asleep(Resting):
    """Does not read until it is woken."""

    def __init__(self) -> None:
        super().__init__()
        self._reading = False


def upstream(head: RequestHead) -> Upstream:
    return Asleep() if head.path == "/asleep" else Resting()


async def send(client: Client) -> int:
    """Write everything, no faster than we may; the most that was queued."""
    most = 0
    for _ in range(SIZE // len(PIECE)):
        await client.may_write.wait()
        client.transport.write(PIECE)
        most = max(most, client.transport.get_write_buffer_size())
    return most


async def transfer(connection: Tunnel) -> int:
    """One of them, to its end."""
    client, reader = await connection.open_websocket()
    assert isinstance(reader, Resting)
    most = await send(client)
    await reader.complete.wait()
    client.transport.close()
    return most


@pytest.mark.slow
@pytest.mark.timeout(300)
@requirement("tunnel:http2:stalled")
async def test_twenty_large_transfers_to_resting_readers_finish_while_one_reader_sleeps() -> None:
    async with like_cloudflared(Upstreams(upstream), NARROW) as connection:
        sleeping = connection.open(websocket_request("/asleep"))
        await sleeping.answer()
        sleeper = await connection.upstreams.opened.get()
        owed = asyncio.create_task(send(sleeping))
        for _ in range(TIMES // AT_ONCE):
            most = await asyncio.gather(*(transfer(connection) for _ in range(AT_ONCE)))
            assert max(most) <= HIGH_WATER + len(PIECE)
        assert not owed.done()
        assert sleeping.transport.get_write_buffer_size() <= HIGH_WATER + len(PIECE)
        sleeper.stream.resume_reading()
        await owed
        await sleeper.complete.wait()
