"""Requests through the whole proxy: listener, WebSocket, inner TLS, route, upstream."""

from __future__ import annotations

from tests.support.proxy import TestPKI, proxy_running, upstream_running
from tests.support.requirements import requirement


@requirement("proxy:9")
async def test_path_and_query_reach_the_upstream_byte_for_byte(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        answer = await inner.ask("GET /mcp?x=%2F&y= HTTP/1.1\nHost: echo.t.example")
        assert answer.status == 200
        assert answer.body == b"GET /mcp?x=%2F&y= "
        answer = await inner.ask("POST //a/../b? HTTP/1.1\nHost: ECHO.T.EXAMPLE.:443\nContent-Length: 5", b"hello")
        assert answer.body == b"POST //a/../b? hello"
        assert upstream.connections == 1
