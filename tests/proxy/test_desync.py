"""Requests that two programs could read differently: refused at the door, and never seen by an upstream."""

from __future__ import annotations

import struct

import hpack
import pytest

from qanat.wire.http2 import events as h2
from tests.net.test_http1 import AMBIGUOUS
from tests.support.proxy import TestPKI, proxy_running, upstream_running
from tests.support.proxy_http2 import H2Session
from tests.support.requirements import requirement

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: echo.t.example\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: echo.t.example\r\n"
COMPLETE = {
    **{name: data for name, data in AMBIGUOUS.items() if data.endswith(b"\r\n\r\n")},
    "CL.TE": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "TE.CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n",
    "TE.TE": POST + b"Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: echo.t.example\r\nHost: other.t.example\r\n\r\n",
    "another host behind a space": b"GET / HTTP/1.1\r\nHost: echo.t.example other.t.example\r\n\r\n",
    "another host in the target": b"GET http://other.t.example/ HTTP/1.1\r\nHost: echo.t.example\r\n\r\n",
    "a user in the host": b"GET / HTTP/1.1\r\nHost: other@echo.t.example\r\n\r\n",
    "a fragment": b"GET /a#b HTTP/1.1\r\nHost: echo.t.example\r\n\r\n",
}


@pytest.mark.parametrize("name", COMPLETE)
async def test_an_ambiguous_request_is_answered_400_and_the_connection_closed(pki: TestPKI, name: str) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.writer.write(COMPLETE[name] + SMUGGLED)
        assert (await inner.answer()).status == 400
        assert await inner.closed() == b""
        assert [seen for seen in upstream.seen if seen.target == "/smuggled"] == []
        assert upstream.seen == []


@pytest.mark.parametrize("rest", [
    b"5;a=b\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"6\r\nhello\r\n0\r\n\r\n", b"-1\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"0\r\nX: a\r\n b\r\n\r\n", b"0\r\nX : a\r\n\r\n",
])  # fmt: skip
async def test_a_body_that_breaks_its_framing_is_cut_off_at_both_ends(pki: TestPKI, rest: bytes) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        head = b"POST / HTTP/1.1\r\nHost: echo.t.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        inner.writer.write(head + rest + SMUGGLED)
        assert (await inner.answer("POST")).status == 400
        assert await inner.closed() == b""
        assert [seen.target for seen in upstream.seen if seen.body] == []
        assert all(seen.target == "/" for seen in upstream.seen)


GOOD = [(":method", "POST"), (":scheme", "https"), (":path", "/mcp"), (":authority", "echo.t.example")]
H2_ABUSES = {
    "no method": GOOD[1:],
    "no path": [GOOD[0], GOOD[1], GOOD[3]],
    "two paths": [*GOOD, (":path", "/other")],
    "an unknown pseudo-header": [*GOOD, (":evil", "x")],
    "a pseudo-header behind a header": [*GOOD[:3], ("x", "y"), GOOD[3]],
    "a status": [*GOOD, (":status", "200")],
    "an upper-case name": [*GOOD, ("X-Upper", "y")],
    "connection": [*GOOD, ("connection", "close")],
    "transfer-encoding": [*GOOD, ("transfer-encoding", "chunked")],
    "upgrade": [*GOOD, ("upgrade", "websocket")],
    "te other than trailers": [*GOOD, ("te", "gzip")],
    "a line break in a value": [*GOOD, ("x", "a\r\nhost: evil")],
    "a NUL in a value": [*GOOD, ("x", "a\0b")],
    "a line break in the path": [*GOOD[:2], (":path", "/ HTTP/1.1\r\nHost: evil\r\n\r\n"), GOOD[3]],
    "a space in the path": [*GOOD[:2], (":path", "/a HTTP/1.1"), GOOD[3]],
    "a path without a slash": [*GOOD[:2], (":path", "mcp"), GOOD[3]],
    "a line break in the method": [(":method", "GET / HTTP/1.1\r\nX: y"), *GOOD[1:]],
    "a host that differs": [*GOOD, ("host", "other.t.example")],
    "a name with a colon": [*GOOD, ("x:y", "z")],
    "two lengths": [*GOOD, ("content-length", "1"), ("content-length", "2")],
    "a signed length": [*GOOD, ("content-length", "+1")],
    "connect": [(":method", "CONNECT"), (":authority", "echo.t.example")],
    "connect with a protocol": [(":method", "CONNECT"), *GOOD[1:], (":protocol", "websocket")],
}


def headers_frame(stream: int, headers: list[tuple[str, str]], flags: int) -> bytes:
    """A HEADERS frame that says what it is told to."""
    block = hpack.Encoder().encode(headers, huffman=False)
    return struct.pack(">IBI", len(block) << 8 | 1, flags, stream) + block


@pytest.mark.parametrize("name", H2_ABUSES)
async def test_an_abused_header_list_is_refused_on_its_stream_and_never_forwarded(pki: TestPKI, name: str) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        session = await H2Session.open(end)
        session.inner.writer.write(headers_frame(1, H2_ABUSES[name], 0x05))
        session.codec._next_stream_id = 3
        stream = session.ask("GET", "/good")
        assert (await session.head(stream))[":status"] == "200"
        assert [seen.target for seen in upstream.seen] == ["/good"]


async def test_an_ambiguous_request_behind_a_good_one_is_refused_after_its_answer(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.writer.write(b"GET /good HTTP/1.1\r\nHost: echo.t.example\r\n\r\n" + COMPLETE["TE.TE"] + SMUGGLED)
        assert (await inner.answer()).status == 200
        assert (await inner.answer()).status == 400
        assert await inner.closed() == b""
        assert [seen.target for seen in upstream.seen] == ["/good"]


async def test_a_thousand_pipelined_requests_that_are_refused_at_once_are_answered_one_by_one(pki: TestPKI) -> None:
    async with proxy_running(pki, {"echo": "http://127.0.0.1:9"}) as end:
        inner = await end.connect()
        inner.writer.write(b"GET / HTTP/1.1\r\nHost: nope.t.example\r\n\r\n" * 1000)
        assert {(await inner.answer()).status for _ in range(1000)} == {502}
        inner.abort()


@pytest.mark.parametrize(("length", "sent"), [("10", b"short"), ("2", b"too long"), ("0", b"x")])
async def test_a_body_that_does_not_match_its_length_never_completes_a_request(
    pki: TestPKI, length: str, sent: bytes
) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        session = await H2Session.open(end)
        stream = session.ask("POST", "/mcp", ("content-length", length), end=False)
        data = struct.pack(">IBI", len(sent) << 8, 1, stream) + sent
        session.inner.writer.write(data)  # past our own codec, which would not send this
        reset = await session.until(h2.StreamReset, stream)
        assert reset.error_code != 0
        assert all(not seen.body for seen in upstream.seen)
        assert (await session.head(session.ask("GET", "/good")))[":status"] == "200"


@requirement("proxy:37")
async def test_cookies_cut_up_by_http2_arrive_whole(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        session = await H2Session.open(end)
        fields = [("cookie", "a=1"), ("x-other", "y"), ("cookie", "b=2"), ("x-forwarded-host", "evil")]
        assert (await session.head(session.ask("GET", "/", *fields)))[":status"] == "200"
        seen = upstream.seen[0]
        assert seen.all("cookie") == ["a=1; b=2"]
        assert seen.all("via") == ["2 mcp-proxy"]
        assert seen.all("x-forwarded-host") == ["echo.t.example"]
