"""Many streams at once: none waits for another, and memory stays within bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qanat.net.layer import HIGH_WATER
from qanat.wire.http2 import Settings
from qanat.wire.http2 import events as h2
from tests.support.proxy import WAIT, TestPKI, TunnelEnd, UpstreamPeer, proxy_running, until, upstream_running
from tests.support.proxy_http2 import H2Session
from tests.support.requirements import requirement

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WINDOWS = Settings(initial_window=256 * 1024, connection_window=16 * 2**20)
"""A client's: one stream it does not read cannot use up the credit of all."""
CHUNK = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"


def resident() -> int:
    """This process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Broadcast:
    """An upstream of event streams that all say the same when told to; `/flood` sends as fast as it may."""

    def __init__(self) -> None:
        self.peers: list[UpstreamPeer] = []
        self.flooded = 0
        self.stuck = asyncio.Event()

    async def __call__(self, peer: UpstreamPeer) -> None:
        seen = await peer.request()
        peer.send(HEAD)
        if seen.target == "/flood":
            await self.flood(peer)
        self.peers.append(peer)
        await peer.head()

    async def flood(self, peer: UpstreamPeer) -> None:
        while True:
            peer.send(CHUNK)
            self.flooded += len(CHUNK)
            try:
                async with asyncio.timeout(0.5):
                    await peer.writer.drain()
            except TimeoutError:
                self.stuck.set()
                await asyncio.Event().wait()

    def say(self, text: str) -> None:
        data = f"data: {text}\n\n"
        for peer in self.peers:
            peer.send(f"{len(data):x}\r\n{data}\r\n")


async def open_streams(end: TunnelEnd, sessions: int, each: int) -> list[tuple[H2Session, int]]:
    opened = []
    for _ in range(sessions):
        session = await H2Session.open(end, WINDOWS)
        opened += [(session, session.ask("GET", "/mcp")) for _ in range(each)]
    for session, stream in opened:
        await session.head(stream)
    return opened


async def all_hear(opened: list[tuple[H2Session, int]], text: str) -> None:
    for session, stream in opened:
        assert await session.data(stream) == f"data: {text}\n\n".encode()


@requirement("proxy:40")
@pytest.mark.slow
async def test_500_streams_and_a_slow_reader_do_not_hold_each_other_up(pki: TestPKI) -> None:
    broadcast = Broadcast()
    async with upstream_running(broadcast) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        before = resident()
        opened = await open_streams(end, 5, 100)
        idle = resident()
        slow_session, _ = opened[0]
        slow = slow_session.ask("GET", "/flood")  # never acknowledged, on a session that others share
        async with asyncio.timeout(WAIT * 3):
            await until(lambda: len(broadcast.peers) == 500)
            while not broadcast.stuck.is_set():
                await drain_flood(slow_session)
            for turn in range(3):
                broadcast.say(f"turn {turn}")
                await all_hear(opened, f"turn {turn}")
        after = resident()
        held = broadcast.flooded
        slow_session.reset(slow)
    grown = (idle - before) / 500 / 1024
    print(
        f"\n500 streams: {grown:.0f} KiB each with both ends in this process; the slow reader's upstream got "
        f"{held / 2**20:.1f} MiB off its hands before it was stopped; {(after - idle) / 2**20:.1f} MiB more in the end"
    )
    # Socket buffers on the way hold some megabytes; the proxy's own share is the window and two high-water marks.
    assert held < 24 * 2**20
    assert grown < 300


async def drain_flood(session: H2Session) -> None:
    """Read what has come without acknowledging it, so that only the slow stream's window closes."""
    try:
        async with asyncio.timeout(0.2):
            data = await session.inner.reader.read(65536)
    except TimeoutError:
        return
    session.codec.receive_data(data)
    received = session.codec.events_received()
    session.events += [event for event in received if not isinstance(event, h2.DataReceived)]
    session.flush()


async def test_a_slow_reader_stops_its_own_upstream_and_not_its_neighbour(pki: TestPKI) -> None:
    broadcast = Broadcast()
    async with upstream_running(broadcast) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        opened = await open_streams(end, 1, 1)
        session = opened[0][0]
        session.ask("GET", "/flood")
        async with asyncio.timeout(WAIT):
            while not broadcast.stuck.is_set():
                await drain_flood(session)
        broadcast.say("still here")
        await all_hear(opened, "still here")


@pytest.mark.parametrize("http2", [False, True])
async def test_an_upstream_that_reads_slowly_stops_its_caller(pki: TestPKI, http2: bool) -> None:
    go_on = asyncio.Event()
    size = 10 * 2**20

    async def script(peer: UpstreamPeer) -> None:
        seen = await peer.head()
        await go_on.wait()
        await peer.rest(seen)
        peer.answer(str(len(seen.body)).encode())
        await peer.head()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        if http2:
            session = await H2Session.open(end)
            stream = session.ask("POST", "/mcp", end=False)
            session.send(stream, b"y" * size, end=True)
            async with asyncio.timeout(WAIT):
                await until(lambda: bool(upstream.seen))
            assert session.codec.queued(stream) > HIGH_WATER
            go_on.set()
            assert (await session.head(stream))[":status"] == "200"
            assert await session.body(stream) == str(size).encode()
        else:
            inner = await end.connect()
            inner.send(f"POST /mcp HTTP/1.1\nHost: echo.t.example\nContent-Length: {size}", b"y" * size)
            await until(lambda: bool(upstream.seen))
            go_on.set()
            assert (await inner.answer("POST")).body == str(size).encode()
