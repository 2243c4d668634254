"""The object form of a route: paths, limits, time limits that are asked for, keep-alive comments."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qanat.errors import ConfigInvalid
from qanat.net.http1 import BodyReceived
from tests.support.proxy import TestPKI, UpstreamPeer, proxy_running, until, upstream_running

HOST = "Host: echo.t.example"
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def hang(peer: UpstreamPeer) -> None:
    await peer.request()
    await peer.head()


def type_of(body: bytes) -> str:
    kind: str = json.loads(body)["error"]["data"]["type"]
    return kind


@pytest.mark.parametrize(("path", "status"), [
    ("/mcp", 200), ("/mcp/", 200), ("/mcp/a?b", 200), ("/.well-known/x", 200), ("/mcp?/admin", 200), ("/admin", 403),
    ("/mcpx", 403), ("/", 403), ("/mcp/../admin", 403), ("/mcp/%2e%2e/admin", 403), ("//mcp", 403), ("/mcp/./a", 403),
    ("/mcp\\..\\admin", 403), ("/MCP", 403), ("*", 403), ("/mcp/..;/admin", 403), ("/mcp/..;a=b/admin", 403),
    ("/mcp/..%2fadmin", 403), ("/mcp/%2E./admin", 403), ("/mcp/a%5c..", 403), ("/mcp/..", 403), ("/mcp/..a", 200),
])  # fmt: skip
async def test_only_listed_paths_are_let_through(pki: TestPKI, path: str, status: int) -> None:
    async with upstream_running() as upstream:
        route = {"upstream": upstream.url, "paths": ["/mcp", "/.well-known/"]}
        async with proxy_running(pki, {"echo": route}) as end:
            answer = await (await end.connect()).ask(f"OPTIONS {path} HTTP/1.1\n{HOST}")
            assert answer.status == status
            assert len(upstream.seen) == (status == 200)


async def test_a_route_takes_no_more_than_its_share(pki: TestPKI) -> None:
    async with (
        upstream_running(hang) as upstream,
        proxy_running(pki, {"echo": {"upstream": upstream.url, "max_in_flight": 1}}) as end,
    ):
        first, second = await end.connect(), await end.connect()
        first.send(f"GET / HTTP/1.1\n{HOST}")
        await until(lambda: bool(upstream.seen))
        answer = await second.ask(f"GET / HTTP/1.1\n{HOST}")
        assert (answer.status, answer.one("retry-after"), type_of(answer.body)) == (503, "1", "overloaded")


@pytest.mark.parametrize("limits", [{"requests": 1}, {"upstream_sockets": 1}])
async def test_beyond_the_limits_requests_get_503(pki: TestPKI, limits: dict[str, Any]) -> None:
    async with upstream_running(hang) as upstream, proxy_running(pki, {"echo": upstream.url}, limits=limits) as end:
        first, second = await end.connect(), await end.connect()
        first.send(f"GET / HTTP/1.1\n{HOST}")
        await until(lambda: bool(upstream.seen))
        answer = await second.ask(f"GET / HTTP/1.1\n{HOST}")
        assert (answer.status, type_of(answer.body)) == (503, "overloaded")


async def test_a_configured_limit_on_the_wait_for_headers_answers_504(pki: TestPKI) -> None:
    async with upstream_running(hang) as upstream:
        route = {"upstream": upstream.url, "timeouts": {"response_header": "50ms"}}
        async with proxy_running(pki, {"echo": route}) as end:
            inner = await end.connect()
            answer = await inner.ask(f"GET / HTTP/1.1\n{HOST}")
            assert (answer.status, type_of(answer.body)) == (504, "upstream_timeout")
            await upstream.idle()


async def test_a_configured_limit_on_silence_ends_a_stream_uncleanly(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send(STREAM)
        await peer.head()

    async with upstream_running(script) as upstream:
        route = {"upstream": upstream.url, "timeouts": {"stream_idle": "50ms"}}
        async with proxy_running(pki, {"echo": route}) as end:
            inner = await end.connect()
            inner.send(f"GET / HTTP/1.1\n{HOST}")
            await inner.head()
            with pytest.raises(EOFError):
                [event async for event in inner.rest()]


async def test_keep_alive_comments_come_only_between_events(pki: TestPKI) -> None:
    half, whole = asyncio.Event(), asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send(STREAM + "6\r\ndata: \r\n")
        await half.wait()
        peer.send("3\r\na\n\n\r\n")
        await whole.wait()
        peer.send("0\r\n\r\n")
        await peer.head()

    async with upstream_running(script) as upstream:
        route = {"upstream": upstream.url, "sse_keepalive": "20ms"}
        async with proxy_running(pki, {"echo": route}) as end:
            inner = await end.connect()
            inner.send(f"GET / HTTP/1.1\n{HOST}")
            await inner.head()
            first = await inner.event()
            quiet = asyncio.ensure_future(inner.event())
            await asyncio.wait([quiet], timeout=0.15)
            assert not quiet.done()  # in the middle of an event
            half.set()
            events = [first, await quiet, await inner.event()]
            assert events == [BodyReceived(b"data: "), BodyReceived(b"a\n\n"), BodyReceived(b": keep-alive\n\n")]
            whole.set()


async def test_a_route_may_not_widen_the_allow_list(pki: TestPKI) -> None:
    route = {"upstream": "http://10.0.0.1:1", "allowed_ips": ["11.0.0.0/8"]}
    with pytest.raises(ConfigInvalid, match=r"routes\.echo\.allowed_ips: 11\.0\.0\.0/8 is not inside"):
        async with proxy_running(pki, {"echo": route}):
            pass
