"""Requests through the whole proxy: listener, WebSocket, inner TLS, route, upstream."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest

from qanat.net.http1 import BodyReceived, MessageEnded, ResponseReceived
from qanat.wire.http2 import events as h2
from tests.support.proxy import WAIT, Answer, TestPKI, UpstreamPeer, echo, proxy_running, upstream_running
from tests.support.proxy_bridge import http_client
from tests.support.proxy_http2 import H2Session
from tests.support.requirements import requirement

HOST = "Host: echo.t.example"


def error_of(answer: Answer) -> dict[str, object]:
    """The error in an answer of the proxy's own, checked to be one."""
    document = json.loads(answer.body)
    assert document["jsonrpc"] == "2.0"
    assert document["id"] is None
    error: dict[str, object] = document["error"]
    data = error["data"]
    assert isinstance(data, dict)
    assert error["code"] == -32603
    assert answer.one("content-type") == "application/json"
    assert answer.one("cache-control") == "no-store"
    assert answer.one("x-mcp-proxy-error") == data["type"]
    assert answer.one("x-request-id") == data["request_id"]
    return {"message": error["message"], "type": data["type"]}


@requirement("proxy:9", "proxy:12")
async def test_path_and_query_reach_the_upstream_byte_for_byte(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        answer = await inner.ask(f"GET /mcp?x=%2F&y= HTTP/1.1\n{HOST}")
        assert answer.status == 200
        assert answer.body == b"GET /mcp?x=%2F&y= "
        answer = await inner.ask("POST //a/../b? HTTP/1.1\nHost: ECHO.T.EXAMPLE.:443\nContent-Length: 5", b"hello")
        assert answer.body == b"POST //a/../b? hello"
        assert upstream.connections == 1


@requirement("proxy:10")
async def test_an_exact_hostname_wins_over_a_subdomain(pki: TestPKI) -> None:
    async def other(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.answer(b"exact")

    async with (
        upstream_running() as plain,
        upstream_running(other) as exact,
        proxy_running(pki, {"echo": plain.url, "echo.t.example": exact.url}) as end,
    ):
        answer = await (await end.connect()).ask(f"GET / HTTP/1.1\n{HOST}")
        assert answer.body == b"exact"


@requirement("proxy:11")
async def test_an_unknown_host_gets_502_and_the_log_names_it(pki: TestPKI, caplog: pytest.LogCaptureFixture) -> None:
    async with proxy_running(pki, {"echo": "http://10.0.0.1:1"}) as end:
        answer = await (await end.connect()).ask("GET / HTTP/1.1\nHost: nope.t.example")
    assert answer.status == 502
    assert error_of(answer) == {"message": "No route configured for host", "type": "no_route"}
    lines = [record for record in caplog.records if record.getMessage() == "no route for host"]
    assert [vars(record)["fields"]["host"] for record in lines] == ["nope.t.example"]


@pytest.mark.parametrize("head", [
    "GET / HTTP/1.1",
    "GET / HTTP/1.1\nHost:",
    "GET / HTTP/1.1\nHost: echo.t.example\nHost: echo.t.example",
    "GET / HTTP/1.1\nHost: echo.t.example:99999",
    "GET / HTTP/1.1\nHost: echo t.example",
    "GET / HTTP/1.1\nHost: user@echo.t.example",
    "GET / HTTP/1.1\nHost: echo..t.example",
    "GET http://other.t.example/ HTTP/1.1\nHost: echo.t.example",
    "CONNECT echo.t.example:443 HTTP/1.1\nHost: echo.t.example",
    "GET / HTTP/1.0\nHost: echo.t.example",
])  # fmt: skip
async def test_a_request_whose_host_is_in_doubt_gets_400_and_is_never_forwarded(pki: TestPKI, head: str) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        answer = await inner.ask(head)
        assert answer.status == 400
        assert error_of(answer) == {"message": "Bad request", "type": "bad_request"}
        assert await inner.closed() == b""
        assert upstream.connections == 0


async def test_an_absolute_target_that_agrees_with_host_is_forwarded_in_origin_form(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        answer = await (await end.connect()).ask(f"GET https://echo.t.example/a?b HTTP/1.1\n{HOST}")
        assert answer.body == b"GET /a?b "


async def test_every_method_passes_and_a_head_answer_has_no_body(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        while True:
            seen = await peer.request()
            if seen.method == "HEAD":
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
            else:
                peer.answer(seen.method.encode())

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "FROBNICATE"):
            assert (await inner.ask(f"{method} / HTTP/1.1\n{HOST}")).body == method.encode()
        answer = await inner.ask(f"HEAD / HTTP/1.1\n{HOST}")
        assert (answer.one("content-length"), answer.body) == ("1234", b"")
        assert (await inner.ask(f"OPTIONS * HTTP/1.1\n{HOST}")).body == b"OPTIONS"
        assert upstream.seen[-1].target == "*"
        assert upstream.connections == 1


async def test_trailers_and_informational_answers_pass(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        seen = await peer.head()
        assert seen.all("expect") == ["100-continue"]
        peer.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await peer.rest(seen)
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        peer.send("2;note=1\r\nhi\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n")
        await peer.head()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.send(f"POST / HTTP/1.1\n{HOST}\nExpect: 100-continue\nContent-Length: 4")
        first = await inner.head("POST")
        assert first.status == 100
        inner.writer.write(b"body")
        assert (await inner.expect(ResponseReceived)).status == 103
        assert (await inner.expect(ResponseReceived)).status == 200
        events = [event async for event in inner.rest()]
        assert events == [BodyReceived(b"hi"), MessageEnded(((b"X-Sum", b"7"),))]


async def test_request_trailers_reach_the_upstream(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        seen = await peer.request()
        peer.answer(repr(seen.trailers).encode() + seen.body)

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        body = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"
        answer = await inner.ask(f"POST / HTTP/1.1\n{HOST}\nTransfer-Encoding: chunked", body)
        assert answer.body == b"((b'X-Sum', b'1'), (b'X-Sum', b'2'))abc"


@requirement("proxy:26")
@pytest.mark.parametrize(("http1", "http2"), [(True, False), (False, True)])
async def test_callers_that_speak_only_one_http_version_are_served(pki: TestPKI, http1: bool, http2: bool) -> None:
    async with (
        upstream_running() as upstream,
        proxy_running(pki, {"echo": upstream.url}) as end,
        http_client(end, http1=http1, http2=http2) as client,
    ):
        answer = await client.post("/mcp?x=%2F&y=", content=b"x" * 300_000)
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert answer.content == b"POST /mcp?x=%2F&y= " + b"x" * 300_000
        answers = await asyncio.gather(*[client.get(f"/{n}") for n in range(20)])
        assert [answer.text for answer in answers] == [f"GET /{n} " for n in range(20)]
        assert (await client.get("/", headers={"Host": "nope.t.example"})).status_code == 502


@requirement("proxy:28")
@pytest.mark.parametrize("http2", [False, True])
async def test_headers_arrive_before_any_body_and_each_event_as_it_is_sent(pki: TestPKI, http2: bool) -> None:
    go_on = asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        peer.send("d\r\ndata: first\n\n\r\n")
        go_on.clear()
        await go_on.wait()
        peer.send("e\r\ndata: second\n\n\r\n0\r\n\r\n")
        await peer.head()

    async with (
        upstream_running(script) as upstream,
        proxy_running(pki, {"echo": upstream.url}) as end,
        http_client(end, http1=not http2, http2=http2) as client,
        asyncio.timeout(WAIT),
        client.stream("GET", "/mcp", headers={"Accept": "text/event-stream"}) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"  # and nothing has followed yet
        pieces = answer.aiter_raw()
        go_on.set()
        assert await anext(pieces) == b"data: first\n\n"
        go_on.set()
        assert await anext(pieces) == b"data: second\n\n"


async def quiet_stream(peer: UpstreamPeer) -> None:
    """Begins an event stream, sends one event, and ends when the proxy closes the connection."""
    await peer.request()
    peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.send("d\r\ndata: first\n\n\r\n")
    await peer.head()


@requirement("proxy:30")
async def test_a_caller_that_leaves_cancels_the_upstream_request(
    pki: TestPKI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "qanat")
    async with upstream_running(quiet_stream) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        async with http_client(end) as client, client.stream("POST", "/mcp", content=b"{}") as answer:
            assert answer.status_code == 200
        async with asyncio.timeout(WAIT):
            await upstream.idle()
    assert any(getattr(record, "fields", {}).get("status") == 499 for record in caplog.records)


@requirement("proxy:30")
async def test_a_reset_stream_cancels_its_request_and_no_other(pki: TestPKI) -> None:
    async with upstream_running(quiet_stream) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        session = await H2Session.open(end)
        streams = [session.ask("POST", "/mcp") for _ in range(2)]
        for stream in streams:
            assert (await session.head(stream))[":status"] == "200"
            assert await session.data(stream) == b"data: first\n\n"
        session.reset(streams[0])
        async with asyncio.timeout(WAIT):
            await upstream.idle(1)
        session.codec.ping(b"12345678")
        session.flush()
        await session.until(h2.PingAcknowledged)
        assert upstream.open == 1


@requirement("proxy:30")
async def test_a_vanished_websocket_cancels_requests_that_have_no_answer_yet(pki: TestPKI) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        asked.set()
        try:
            await peer.head()
        except (EOFError, ConnectionError):
            cancelled.set()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.send(f"POST / HTTP/1.1\n{HOST}\nContent-Length: 2", b"{}")
        async with asyncio.timeout(WAIT):
            await asked.wait()
            inner.abort()
            await cancelled.wait()


@requirement("proxy:33")
async def test_an_upstream_that_dies_mid_stream_ends_the_answer_uncleanly(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.send("d\r\ndata: first\n\n\r\n")
        await peer.writer.drain()
        await go_on.wait()
        peer.abort()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        for http2 in (False, True):
            go_on = asyncio.Event()
            async with (
                http_client(end, http1=not http2, http2=http2) as client,
                client.stream("GET", "/mcp") as answer,
            ):
                pieces = answer.aiter_raw()
                assert await anext(pieces) == b"data: first\n\n"
                go_on.set()
                with pytest.raises(httpx2.RemoteProtocolError):
                    await anext(pieces)


@requirement("proxy:31")
async def test_repeated_header_lines_stay_two_lines_in_order(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        await inner.ask(f"POST / HTTP/1.1\nMcp-Method: a\n{HOST}\nX-Other: 1\nmcp-method: b\nContent-Length: 0")
        seen = upstream.seen[0]
        assert seen.all("mcp-method") == ["a", "b"]
        names = [name for name, _ in seen.headers]
        assert names[:5] == [b"Host", b"Mcp-Method", b"X-Other", b"mcp-method", b"Content-Length"]


@requirement("proxy:37")
async def test_forged_forwarding_headers_are_replaced_and_connection_cannot_remove_what_matters(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        forged = "\n".join([
            *("X-Forwarded-Host: evil", "Forwarded: host=evil", "X-Real-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6"),
            *("X-Forwarded-For: 6.6.6.6", "Cdn-Loop: evil", "X-Forwarded-Port: 1", "Proxy-Authorization: evil"),
            *("Connection: X-Drop, keep-alive", "X-Drop: evil", "Keep-Alive: evil", "TE: trailers, evil"),
            *("Authorization: Bearer kept", "Cookie: kept=1", "Via: 1.1 before", "X-Request-Id: abc.1"),
        ])  # fmt: skip
        answer = await inner.ask(f"GET / HTTP/1.1\n{HOST}\n{forged}")
        assert answer.one("x-request-id") == "abc.1"
        seen = upstream.seen[0]
        assert not any(b"evil" in value or b"6.6.6.6" in value for _, value in seen.headers)
        assert seen.all("host") == [f"127.0.0.1:{upstream.port}"]
        assert seen.all("x-forwarded-host") == ["echo.t.example"]
        assert seen.all("x-forwarded-proto") == ["https"]
        assert seen.all("x-forwarded-for") == []
        assert seen.all("te") == ["trailers"]
        assert seen.all("via") == ["1.1 before", "1.1 mcp-proxy"]
        assert seen.all("authorization") == ["Bearer kept"]
        assert seen.all("cookie") == ["kept=1"]
        for listed in ("Mcp-Session-Id", "authorization", "Host", "Content-Length"):
            other = await end.connect()
            assert (await other.ask(f"GET / HTTP/1.1\n{HOST}\nConnection: {listed}")).status == 400
        assert len(upstream.seen) == 1


async def test_a_request_that_keeps_coming_back_gets_508(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        via = "Via: " + ", ".join(["1.1 mcp-proxy"] * 5)
        assert (await inner.ask(f"GET / HTTP/1.1\n{HOST}\n{via}")).status == 508
        assert (await inner.ask(f"GET / HTTP/1.1\n{HOST}\nVia: 1.1 mcp-proxy")).status == 200


@requirement("proxy:36")
async def test_a_redirect_built_from_the_upstream_host_names_the_tunnel_host(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        while True:
            seen = await peer.request()
            host = seen.all("host")[0]
            challenge = f'WWW-Authenticate: Bearer resource_metadata="http://{host}/.well-known/x", scope="a"'
            peer.answer(b"", f"Location: http://{host}/mcp", challenge, status="307 Temporary Redirect")

    async with (
        upstream_running(script) as upstream,
        proxy_running(pki, {"echo": upstream.url}) as end,
    ):
        answer = await (await end.connect()).ask(f"POST /mcp/ HTTP/1.1\n{HOST}\nContent-Length: 0")
        assert answer.status == 307
        assert answer.one("location") == "https://echo.t.example/mcp"
        challenge = 'Bearer resource_metadata="https://echo.t.example/.well-known/x", scope="a"'
        assert answer.one("www-authenticate") == challenge
        async with proxy_running(pki, {"echo": upstream.url}, rewrite_origins=False) as end:
            answer = await (await end.connect()).ask(f"POST /mcp/ HTTP/1.1\n{HOST}\nContent-Length: 0")
            assert answer.one("location") == f"http://127.0.0.1:{upstream.port}/mcp"


@requirement("proxy:34")
async def test_an_upstream_404_passes_unchanged(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        while True:
            await peer.request()
            peer.answer(b"no session", "Server: theirs", "X-A: 1", "X-A: 2", status="404 Not Found")

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        answer = await (await end.connect()).ask(f"DELETE /mcp HTTP/1.1\n{HOST}\nMcp-Session-Id: s")
        assert (answer.status, answer.body) == (404, b"no session")
        assert answer.one("server") == "theirs"
        assert answer.all("x-a") == ["1", "2"]
        assert upstream.seen[0].all("mcp-session-id") == ["s"]


@pytest.mark.parametrize("bytes_sent", [
    b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"HTTP/1.1 200 OK\nX: bare line feeds\n\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
])  # fmt: skip
async def test_an_upstream_that_makes_no_sense_gets_its_caller_502(pki: TestPKI, bytes_sent: bytes) -> None:
    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send(bytes_sent)

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        answer = await (await end.connect()).ask(f"GET / HTTP/1.1\n{HOST}")
        assert answer.status == 502
        assert error_of(answer) == {"message": "Upstream sent an invalid response", "type": "upstream_protocol"}


async def test_a_body_that_only_the_close_ends_arrives_whole(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"y" * 100_000)

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        for _ in range(2):
            answer = await inner.ask(f"GET / HTTP/1.1\n{HOST}")
            assert (answer.one("transfer-encoding"), len(answer.body)) == ("chunked", 100_000)
        assert upstream.connections == 2


async def test_pipelined_requests_are_answered_in_order(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        for n in range(5):
            inner.send(f"POST /{n} HTTP/1.1\n{HOST}\nContent-Length: 1", b"x")
        assert [(await inner.answer("POST")).body for _ in range(5)] == [f"POST /{n} x".encode() for n in range(5)]


async def test_an_answer_before_the_body_is_complete_reaches_the_caller_and_the_rest_is_dropped(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        seen = await peer.head()
        if seen.target == "/big":
            peer.answer(b"too large", "Connection: close", status="413 Content Too Large")
            return
        peer.events.clear()
        peer.answer(b"fine")
        await peer.reader.read()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.send(f"POST /big HTTP/1.1\n{HOST}\nContent-Length: 1000000", b"z" * 100_000)
        assert (await inner.answer("POST")).status == 413
        inner.writer.write(b"z" * 900_000)
        assert (await inner.ask(f"GET /next HTTP/1.1\n{HOST}")).body == b"fine"


async def test_an_idle_upstream_connection_that_was_closed_is_not_used_again(pki: TestPKI) -> None:
    async def once(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.answer(b"once")

    async with upstream_running(once) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        for _ in range(20):
            assert (await inner.ask(f"POST / HTTP/1.1\n{HOST}\nContent-Length: 0")).body == b"once"
        assert upstream.connections == 20


async def test_idle_upstream_connections_are_given_up_after_their_time(pki: TestPKI) -> None:
    gone = asyncio.Event()

    async def script(peer: UpstreamPeer) -> None:
        try:
            await echo(peer)
        finally:
            gone.set()

    changes = {"allowed_ips": ["127.0.0.0/8"], "idle_timeout": "50ms"}
    async with (
        upstream_running(script) as upstream,
        proxy_running(pki, {"echo": upstream.url}, upstream=changes) as end,
    ):
        inner = await end.connect()
        await inner.ask(f"GET / HTTP/1.1\n{HOST}")
        async with asyncio.timeout(WAIT):
            await gone.wait()
        assert (await inner.ask(f"GET / HTTP/1.1\n{HOST}")).status == 200


async def test_the_sni_of_one_name_may_not_carry_requests_for_another_outside_the_domain(pki: TestPKI) -> None:
    async with upstream_running() as upstream:
        routes = {"echo": upstream.url, "other": upstream.url, "wiki.corp.example": upstream.url}
        async with proxy_running(pki, routes) as end:
            inner = await end.connect(sni="echo.t.example")
            assert (await inner.ask("GET / HTTP/1.1\nHost: other.t.example")).status == 200
            answer = await inner.ask("GET / HTTP/1.1\nHost: wiki.corp.example")
            assert answer.status == 421
            assert error_of(answer)["type"] == "misdirected"
