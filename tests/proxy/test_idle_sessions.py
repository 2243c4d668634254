"""What an idle session holds: thousands stay open for days, most of them silent."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from qanat.proxy import inbound
from qanat.proxy.incoming import IncomingRequest
from tests.support.proxy import DOMAIN, TestPKI, proxy_running, until, upstream_running
from tests.support.weight import count_alive

ASK = f"GET /mcp HTTP/1.1\nHost: echo.{DOMAIN}"


async def test_idle_sessions_have_neither_buffers_nor_timers_of_their_own(pki: TestPKI) -> None:
    due_at_last = asyncio.get_running_loop().call_later(3600.0, int)  # of the loop that runs: uvloop has its own
    timer = type(due_at_last)
    due_at_last.cancel()
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:

        async def open_and_ask() -> None:
            inner = await end.connect("http/1.1")
            assert (await inner.ask(ASK)).status == 200
            sessions.append(inner)

        sessions: list[object] = []
        for _ in range(2):  # what all share comes with the first
            await open_and_ask()
        before = count_alive(ssl.MemoryBIO, timer)
        for _ in range(6):
            await open_and_ask()
        after = count_alive(ssl.MemoryBIO, timer)
        assert after["MemoryBIO"] == before["MemoryBIO"]
        assert after[timer.__name__] < before[timer.__name__] + 6
        assert end.proxy.websockets == 8
        end.hang_up()


async def test_a_session_at_rest_lets_go_of_the_last_request_and_of_its_token(
    pki: TestPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> int:
        return count_alive(IncomingRequest)["IncomingRequest"]

    monkeypatch.setattr(inbound, "FORGET_AFTER", 0.05)
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect("http/1.1")
        before = kept()
        for _ in range(2):  # what it let go of is read again, and again let go of
            assert (await inner.ask(f"{ASK}\nAuthorization: Bearer of-this-caller")).status == 200
            await until(lambda: kept() == before)
        inner.abort()
