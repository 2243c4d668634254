"""The end of a proxy: what is going on finishes, nothing new begins."""

from __future__ import annotations

import asyncio

import pytest

from qanat.proxy.server import serve
from qanat.wire.http2 import events as h2
from tests.support.proxy import (
    WAIT,
    TestPKI,
    TunnelEnd,
    UpstreamPeer,
    make_config,
    proxy_running,
    until,
    upstream_running,
)
from tests.support.proxy_http2 import H2Session
from tests.support.requirements import requirement

HOST = "Host: echo.t.example"


class SlowCall:
    """An upstream whose one answer waits for the test."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, peer: UpstreamPeer) -> None:
        await peer.request()
        self.asked.set()
        await self.go_on.wait()
        peer.answer(b"result")
        await peer.head()


async def drain_in_midcall(end: TunnelEnd, call: SlowCall) -> asyncio.Task[bool]:
    """Begin to drain while a call is running, see that new work is refused, and let the call go on."""
    await call.asked.wait()
    draining = asyncio.create_task(end.proxy.drain(WAIT))
    await until(lambda: end.proxy.forwarder.draining)
    assert not end.proxy.ready
    with pytest.raises(ConnectionError, match=r"HTTP/1\.1 503 "):
        await end.connect()
    call.go_on.set()
    return draining


@requirement("proxy:38")
async def test_a_running_call_completes_over_http_1_1_and_new_work_is_turned_away(pki: TestPKI) -> None:
    call = SlowCall()
    async with upstream_running(call) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.send(f"POST /mcp HTTP/1.1\n{HOST}\nContent-Length: 0")
        draining = await drain_in_midcall(end, call)
        answer = await inner.answer("POST")
        assert (answer.body, answer.one("connection")) == (b"result", "close")
        assert await inner.closed() == b""
        assert await draining


@requirement("proxy:38")
async def test_a_running_call_completes_over_http_2_after_goaway(pki: TestPKI) -> None:
    call = SlowCall()
    async with upstream_running(call) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        session = await H2Session.open(end)
        stream = session.ask("POST", "/mcp")
        draining = await drain_in_midcall(end, call)
        assert (await session.head(stream))[":status"] == "200"
        assert await session.body(stream) == b"result"
        await session.until(h2.GoAwayReceived)
        await session.inner.closed()
        assert await draining


@requirement("proxy:38")
async def test_a_standalone_stream_is_ended_cleanly_at_once_and_a_post_stream_goes_on(pki: TestPKI) -> None:
    go_on = asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        seen = await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if seen.method == "POST":
            await go_on.wait()
            peer.send("8\r\ndata: a\n\r\n0\r\n\r\n")
        await peer.head()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        session = await H2Session.open(end)
        listening, calling = session.ask("GET", "/mcp"), session.ask("POST", "/mcp")
        for stream in (listening, calling):
            await session.head(stream)
        draining = asyncio.create_task(end.proxy.drain(WAIT))
        assert await session.body(listening) == b""
        go_on.set()
        assert await session.body(calling) == b"data: a\n"
        assert await draining


async def test_what_is_left_when_time_is_up_is_aborted(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbe")
        await peer.head()

    async with upstream_running(script) as upstream:
        config = make_config(pki, {"echo": upstream.url}, shutdown_timeout="0s")
        async with serve(config) as running:
            end = TunnelEnd(running, pki)
            inner = await end.connect()
            inner.send(f"POST /mcp HTTP/1.1\n{HOST}\nContent-Length: 0")
            await inner.head("POST")
        with pytest.raises(EOFError):
            [event async for event in inner.rest()]
        async with asyncio.timeout(WAIT):
            await upstream.idle()
        end.hang_up()
