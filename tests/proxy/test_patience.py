"""A call of ten minutes and a stream that is silent for five: none of the timers on the whole path cuts them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import httpx2
import pytest

from tests.support.jumping_clock import JumpingLoop, run_jumping
from tests.support.proxy import UpstreamPeer, until, upstream_running
from tests.support.requirements import requirement
from tests.support.whole_tunnel import Arrangement, WholeTunnel, whole_tunnel

CALL, SILENCE = 600.0, 300.0
PATIENT = httpx2.Timeout(30.0, read=None)
"""How long to wait for an answer is the client's own affair."""


@dataclass
class Slow:
    """An upstream with a tool that takes ten minutes and a stream that says nothing for five."""

    ended: list[str] = field(default_factory=list)

    async def serve(self, peer: UpstreamPeer) -> None:
        request = await peer.request()
        if request.method == "POST":
            await self._outlast(peer, CALL)
            peer.answer(b'{"done":1}', "Content-Type: application/json")
        else:
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            await self._outlast(peer, SILENCE)
            peer.send("9\r\ndata: 1\n\n\r\n")
            await self._outlast(peer, SILENCE)
            peer.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await peer.reader.read()

    async def _outlast(self, peer: UpstreamPeer, seconds: float) -> None:
        """Wait; whoever hangs up meanwhile is written down."""
        try:
            async with asyncio.timeout(seconds):
                await peer.reader.read(1)
        except TimeoutError:
            return
        self.ended.append(f"hung up on after less than {seconds} s")


async def call(tunnel: WholeTunnel) -> bytes:
    async with tunnel.client(timeout=PATIENT) as http:
        return (await http.post(tunnel.url("echo"), json={})).content


async def listen(tunnel: WholeTunnel, opened: asyncio.Event) -> list[str]:
    async with tunnel.client(timeout=PATIENT) as http, http.stream("GET", tunnel.url("echo")) as answer:
        opened.set()
        return [line async for line in answer.aiter_lines() if line]


async def wait_it_out(folder: Path, arrangement: Arrangement) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    slow, opened = Slow(), asyncio.Event()
    async with upstream_running(slow.serve) as upstream, whole_tunnel(folder, {"echo": upstream.url}, arrangement) as t:
        calls = asyncio.create_task(call(t)), asyncio.create_task(listen(t, opened))
        await opened.wait()
        await until(lambda: len(upstream.seen) == 2)
        began = loop.time()
        loop.jumping = True
        answer, events = await asyncio.gather(*calls)
        loop.jumping = False
        passed = loop.time() - began
    assert slow.ended == []
    assert answer == b'{"done":1}'
    assert events == ["data: 1", "data: 2"]
    assert passed >= CALL - 1  # on the loop's clock
    assert loop.jumps > CALL / 30  # pings among them: the timers did fire


@pytest.mark.slow
@requirement("proxy:28", "proxy:32")
@pytest.mark.parametrize("arrangement", get_args(Arrangement))
def test_no_timer_of_ours_ends_a_long_call_or_a_silent_stream(tmp_path: Path, arrangement: Arrangement) -> None:
    run_jumping(wait_it_out(tmp_path, arrangement))


async def meet_a_limit(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    slow = Slow()
    async with upstream_running(slow.serve) as upstream:
        route = {"upstream": upstream.url, "timeouts": {"response_header": "1m"}}
        async with whole_tunnel(folder, {"echo": route}, "joined") as tunnel, tunnel.client(timeout=PATIENT) as http:
            answering = asyncio.create_task(http.post(tunnel.url("echo"), json={}))
            await until(lambda: len(upstream.seen) == 1)
            loop.jumping = True
            assert (await answering).status_code == 504
            loop.jumping = False


@pytest.mark.slow
def test_a_limit_that_the_operator_has_set_is_kept(tmp_path: Path) -> None:
    run_jumping(meet_a_limit(tmp_path))
