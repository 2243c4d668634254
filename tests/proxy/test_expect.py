"""`Expect: 100-continue` where the proxy reads the body itself: it says when it will, and only then."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qanat.net.http1 import ResponseReceived
from qanat.wire.http2 import events as h2
from tests.support.proxy import TestPKI, proxy_running, upstream_running
from tests.support.proxy_http2 import H2Session

BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize"}).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HEAD = "POST /mcp HTTP/1.1\nHost: echo.t.example\nContent-Type: application/json\nExpect: 100-Continue"
POLICY: dict[str, Any] = {"tools": {"deny": ["drop"]}}
PROGRAM: dict[str, Any] = {"stdio": {"command": [sys.executable, str(Path(__file__).parent / "stdio" / "child.py")]}}
SIGN_IN: dict[str, Any] = {"auth": {"mode": "oauth", "authorization_servers": ["https://sso.example"]}}
READERS = pytest.mark.parametrize("options", [POLICY, PROGRAM, POLICY | PROGRAM], ids=["policy", "program", "both"])


def route(options: dict[str, Any], url: str) -> dict[str, Any]:
    return {"echo": options if "stdio" in options else {"upstream": url, **options}}


@READERS
@pytest.mark.parametrize(("framing", "body"), [
    (f"Content-Length: {len(BODY)}", BODY), ("Transfer-Encoding: chunked", CHUNKED),
], ids=["sized", "chunked"])  # fmt: skip
async def test_a_caller_that_waits_is_told_to_send_its_body(
    pki: TestPKI, options: dict[str, Any], framing: str, body: bytes
) -> None:
    async with upstream_running() as upstream, proxy_running(pki, route(options, upstream.url)) as end:
        inner = await end.connect()
        inner.send(f"{HEAD}\n{framing}")
        assert (await inner.head("POST")).status == 100
        inner.writer.write(body)
        assert (await inner.expect(ResponseReceived)).status == 200
        assert [(seen.body, seen.all("expect")) for seen in upstream.seen] == [(BODY, [])] * ("stdio" not in options)


@READERS
async def test_a_caller_over_http2_is_told_so_too(pki: TestPKI, options: dict[str, Any]) -> None:
    async with upstream_running() as upstream, proxy_running(pki, route(options, upstream.url)) as end:
        session = await H2Session.open(end)
        fields = ("content-type", "application/json"), ("expect", "100-continue")
        stream = session.ask("POST", "/mcp", *fields, end=False)
        assert (await session.until(h2.InformationalReceived, stream)).headers[0] == (":status", "100")
        session.send(stream, BODY, end=True)
        assert (await session.head(stream))[":status"] == "200"


async def test_a_caller_that_did_not_wait_is_told_nothing(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, route(POLICY, upstream.url)) as end:
        answer = await (await end.connect()).ask(f"{HEAD}\nContent-Length: {len(BODY)}", BODY)
        assert (answer.status, answer.informational) == (200, [])


@pytest.mark.parametrize(("options", "lines", "status"), [
    (POLICY | SIGN_IN, "Content-Length: 9", 401), (PROGRAM | SIGN_IN, "Content-Length: 9", 401),
    (POLICY, "Content-Length: 9\nContent-Encoding: gzip", 415), (PROGRAM, "Content-Length: 5000000", 413),
    (POLICY, "Content-Length: 5000000", 413), (POLICY | PROGRAM, "Content-Length: 5000000", 413),
])  # fmt: skip
async def test_a_request_that_is_refused_is_not_asked_for_its_body(
    pki: TestPKI, options: dict[str, Any], lines: str, status: int
) -> None:
    async with upstream_running() as upstream, proxy_running(pki, route(options, upstream.url)) as end:
        answer = await (await end.connect()).ask(f"{HEAD}\n{lines}")
        assert (answer.status, answer.informational) == (status, [])
        assert upstream.connections == 0
