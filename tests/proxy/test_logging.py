"""What is written down about requests, and what never is."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from qanat.log import setup_logging
from tests.support.proxy import (
    TestPKI,
    UpstreamPeer,
    proxy_running,
    until,
    upstream_running,
)
from tests.support.proxy_http2 import H2Session
from tests.support.requirements import requirement

SECRETS = {
    "bearer": "BEARER-c4f1", "cookie": "COOKIE-9a2b", "session": "SESSION-77d0", "query": "QUERY-5e5e",
    "argument": "ARGUMENT-1f1f", "result": "RESULT-8c8c", "api_key": "APIKEY-3d3d", "set_cookie": "SETCOOKIE-6b6b",
    "param": "PARAM-2e2e", "name": "TOOLNAME-4a4a", "location": "LOCATION-0f0f", "basic": "UFJPWFktYmFzaWM",
}  # fmt: skip
REQUEST = f"""\
POST /mcp?token={SECRETS["query"]} HTTP/1.1
Host: echo.t.example
Authorization: Bearer {SECRETS["bearer"]}
Proxy-Authorization: Basic {SECRETS["basic"]}
Cookie: s={SECRETS["cookie"]}
X-Api-Key: {SECRETS["api_key"]}
Mcp-Session-Id: {SECRETS["session"]}
Mcp-Name: {SECRETS["name"]}
Mcp-Param-Region: {SECRETS["param"]}"""


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything the product writes at its most talkative."""
    root, ours = logging.getLogger(), logging.getLogger("qanat")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    stream = io.StringIO()
    setup_logging("debug", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


async def leaky(peer: UpstreamPeer) -> None:
    """An upstream whose answers are full of secrets, some of them broken."""
    while True:
        seen = await peer.request()
        if seen.target.startswith("/broken"):
            peer.send(f"HTTP/1.1 200 OK\r\nSet-Cookie: {SECRETS['set_cookie']}\r\nX : {SECRETS['result']}\r\n\r\n")
            return
        if seen.target.startswith("/dies"):
            peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{SECRETS['result']}")
            await peer.writer.drain()
            peer.abort()
            return
        location = f"Location: http://other/{SECRETS['location']}?{SECRETS['query']}"
        peer.answer(SECRETS["result"].encode(), f"Set-Cookie: {SECRETS['set_cookie']}", location)


@requirement("proxy:39")
async def test_no_secret_is_in_any_log_line_at_any_level(pki: TestPKI, written: io.StringIO) -> None:
    body = json.dumps({"method": "tools/call", "params": {"arguments": {"x": SECRETS["argument"]}}}).encode()
    async with upstream_running(leaky) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        for path in ("/mcp", "/broken", "/dies"):
            inner = await end.connect()
            inner.send(REQUEST.replace("/mcp", path) + f"\nContent-Length: {len(body)}", body)
            await inner.head("POST")
            inner.abort()
        for head in (
            REQUEST.replace("Host: echo.t.example\n", ""),
            REQUEST + "\nbad header: x",
            REQUEST.replace("echo", "nope"),
            REQUEST + "\nConnection: Authorization",
        ):
            inner = await end.connect()
            assert (await inner.ask(head)).status >= 400
        session = await H2Session.open(end)
        fields = (("authorization", SECRETS["bearer"]), ("mcp-session-id", SECRETS["session"]))
        await session.head(session.ask("GET", f"/mcp?{SECRETS['query']}", *fields))
        text = written.getvalue() + generate_latest(end.proxy.metrics.registry).decode()
    assert [name for name, secret in SECRETS.items() if secret in text] == []
    assert "request started" in text


async def test_each_request_is_two_lines_that_belong_together(pki: TestPKI, written: io.StringIO) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        head = "POST /mcp?q=1 HTTP/1.1\nHost: echo.t.example\nMcp-Session-Id: s\nContent-Length: 2\nX-Request-Id: r-1"
        answer = await inner.ask(head, b"hi")
        await until(lambda: "request finished" in written.getvalue())
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    started, finished = (
        next(line for line in lines if line["msg"] == phrase) for phrase in ("request started", "request finished")
    )
    for line in (started, finished):
        assert (line["request_id"], line["route"], line["host"]) == ("r-1", "echo", "echo.t.example")
        assert (line["method"], line["path"], line["proto"]) == ("POST", "/mcp", "HTTP/1.1")
        assert line["upstream"] == upstream.url.removeprefix("http://")
        assert len(line["session"]) == 12
    assert (finished["status"], finished["bytes_in"], finished["bytes_out"]) == (200, 2, len(answer.body))
    assert finished["duration_ms"] >= finished["ttfb_ms"] > 0
    assert finished["error_type"] is None


async def test_what_a_peer_says_cannot_forge_a_log_line(pki: TestPKI, written: io.StringIO) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        await inner.ask("GET /\x1b[31m HTTP/1.1\nHost: echo.t.example")
        inner = await end.connect()
        await inner.ask("GET /\xe9\x85 HTTP/1.1\nHost: echo.t.example")
    text = written.getvalue()
    assert "\x1b" not in text
    assert all(json.loads(line) for line in text.splitlines())
    assert text.isascii()


async def test_metrics_take_their_labels_from_the_configuration_only(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        await inner.ask("FROBNICATE / HTTP/1.1\nHost: echo.t.example")
        await inner.ask("GET / HTTP/1.1\nHost: made-up-by-caller.t.example")
        text = generate_latest(end.proxy.metrics.registry).decode()
    assert 'mcp_proxy_requests_total{method="other",route="echo",status="200"} 1.0' in text
    assert "mcp_proxy_no_route_total 1.0" in text
    assert "made-up-by-caller" not in text
    assert "FROBNICATE" not in text
