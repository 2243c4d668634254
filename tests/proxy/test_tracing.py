"""Spans of requests, read by OpenTelemetry's own definitions, and the trace context that goes upstream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qanat.errors import ConfigInvalid
from qanat.net.http1_fields import Fields
from qanat.proxy.config import Tracing
from qanat.proxy.tracing import export
from qanat.proxy.tracing.context import Parent, parent_of
from qanat.proxy.tracing.export import Exporter
from tests.support.collector import Collected, Seen
from tests.support.ports import free_port
from tests.support.proxy import (
    TestPKI,
    TunnelEnd,
    UpstreamPeer,
    make_config,
    proxy_running,
    until,
    upstream_running,
)
from tests.support.proxy_http2 import H2Session

SERVER, CLIENT = 2, 3
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ASK = "POST /mcp?token=QUERY-5e5e HTTP/1.1\nHost: echo.t.example\nAuthorization: Bearer BEARER-c4f1\nContent-Length: 2"


@asynccontextmanager
async def collector(*answers: int) -> AsyncIterator[tuple[Collected, str]]:
    """One that takes everything, after it has refused with `answers`."""
    collected, statuses = Collected(), list(answers)

    async def take(peer: UpstreamPeer) -> None:
        while True:
            seen = await peer.request()
            assert (seen.method, seen.target) == ("POST", "/v1/traces")
            assert seen.all("content-type") == ["application/json"]
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                collected.take(seen.body)
            peer.answer(b"{}", "Content-Type: application/json", status=f"{status} Whatever")

    async with upstream_running(take) as server:
        yield collected, server.url


@asynccontextmanager
async def traced(pki: TestPKI, url: str, upstream: str, **changes: Any) -> AsyncIterator[TunnelEnd]:
    async with proxy_running(pki, {"echo": upstream}, tracing={"otlp_endpoint": url, **changes}) as end:
        yield end


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans need not wait for company."""
    monkeypatch.setattr(export, "EVERY", 0.01)


def two(collected: Collected) -> tuple[Seen, Seen]:
    """The server span and the client span of the one request there was."""
    by_kind = {span.kind: span for span in collected.spans}
    assert len(collected.spans) == len(by_kind) == 2
    return by_kind[SERVER], by_kind[CLIENT]


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (SAMPLED, Parent(TRACE, SPAN, True)),
        (UNSAMPLED, Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-what-comes-later", None),
        (f"cc-{TRACE}-{SPAN}-01.what-comes-later", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        ("", None),
    ],
)
def test_reads_a_parent_as_the_recommendation_says(value: str, parent: Parent | None) -> None:
    assert parent_of(Fields([(b"Traceparent", value.encode())])) == parent


def test_two_parents_are_none() -> None:
    assert parent_of(Fields([(b"traceparent", SAMPLED.encode())] * 2)) is None
    assert parent_of(Fields()) is None


@pytest.mark.usefixtures("soon")
async def test_a_request_has_a_span_and_its_call_upstream_another_within_the_callers_trace(pki: TestPKI) -> None:
    async with collector() as (collected, url), upstream_running() as upstream:
        async with traced(pki, url, upstream.url, service_name="customer-proxy") as end:
            answer = await (await end.connect()).ask(f"{ASK}\ntraceparent: {SAMPLED}\ntracestate: a=1", b"hi")
            await until(lambda: len(collected.spans) == 2)
        server, client = two(collected)
        assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
        assert (client.trace_id, client.parent_id) == (TRACE, server.span_id)
        assert upstream.seen[0].all("traceparent") == [f"00-{TRACE}-{client.span_id}-01"]
        assert upstream.seen[0].all("tracestate") == ["a=1"]
        assert server.start <= client.start <= client.end <= server.end
        assert (server.name, server.failed) == ("POST echo", False)
        assert server.attributes == {
            "http.request.method": "POST", "url.scheme": "https", "url.path": "/mcp",
            "server.address": "echo.t.example", "network.protocol.name": "http", "network.protocol.version": "1.1",
            "http.response.status_code": 200, "http.request.body.size": 2, "http.response.body.size": len(answer.body),
            "qanat.route": "echo", "qanat.request_id": answer.one("x-request-id"),
        }  # fmt: skip
        assert (client.name, client.failed) == ("POST", False)
        assert client.attributes == {
            "http.request.method": "POST", "url.full": f"{upstream.url}/mcp", "server.address": "127.0.0.1",
            "server.port": upstream.port, "network.protocol.name": "http", "network.protocol.version": "1.1",
            "http.response.status_code": 200,
        }  # fmt: skip
        assert collected.resource["service.name"] == "customer-proxy"
        assert not re.search("QUERY-5e5e|BEARER-c4f1", repr(collected))


async def test_what_is_not_sent_yet_is_sent_at_the_end(pki: TestPKI) -> None:
    async with collector() as (collected, url), upstream_running() as upstream:
        async with traced(pki, f"{url}/v1/traces", upstream.url) as end:
            session = await H2Session.open(end)
            stream = session.ask("GET", "/mcp")
            await session.head(stream)
            await session.body(stream)
            await until(lambda: not end.proxy.forwarder.in_flight)
            assert collected.spans == []
        server, client = two(collected)
        assert server.attributes["network.protocol.version"] == "2"
        assert server.parent_id == ""
        assert upstream.seen[0].all("traceparent") == [f"00-{server.trace_id}-{client.span_id}-01"]


@pytest.mark.parametrize(
    ("given", "ratio", "passed"),
    [
        (f"traceparent: {UNSAMPLED}\ntracestate: a=1", 1.0, (UNSAMPLED, ["a=1"])),
        ("X-Other: 1", 0.0, ("00-[0-9a-f]{32}-[0-9a-f]{16}-00", [])),
        ("traceparent: nonsense\ntracestate: a=1", 0.0, ("00-[0-9a-f]{32}-[0-9a-f]{16}-00", [])),
    ],
)
async def test_a_trace_that_is_not_kept_goes_on_as_one(
    pki: TestPKI, given: str, ratio: float, passed: tuple[str, list[str]]
) -> None:
    async with collector() as (collected, url), upstream_running() as upstream:
        async with traced(pki, url, upstream.url, sample_ratio=ratio) as end:
            await (await end.connect()).ask(f"{ASK}\n{given}", b"hi")
        (parent,) = upstream.seen[0].all("traceparent")
        assert re.fullmatch(passed[0], parent)
        assert upstream.seen[0].all("tracestate") == passed[1]
        assert collected.spans == []


async def test_a_callers_decision_counts_for_more_than_the_ratio(pki: TestPKI) -> None:
    async with collector() as (collected, url), upstream_running() as upstream:
        async with traced(pki, url, upstream.url, sample_ratio=0) as end:
            await (await end.connect()).ask(f"{ASK}\ntraceparent: {SAMPLED}", b"hi")
        assert {span.trace_id for span in collected.spans} == {TRACE}


async def test_what_never_reached_an_upstream_says_so(pki: TestPKI) -> None:
    async with collector() as (collected, url):
        routes = {"echo": f"http://127.0.0.1:{free_port()}"}
        async with proxy_running(pki, routes, tracing={"otlp_endpoint": url}) as end:
            inner = await end.connect()
            assert (await inner.ask("GET / HTTP/1.1\nHost: nobody.t.example")).status == 502
            assert (await inner.ask("BREW / HTTP/1.1\nHost: echo.t.example")).status == 502
    lost, server, client = sorted(collected.spans, key=lambda span: (span.start, span.kind))
    assert (lost.kind, lost.name, lost.failed) == (SERVER, "GET", True)
    assert lost.attributes["error.type"] == "no_route"
    assert (server.name, server.attributes["http.request.method"]) == ("HTTP echo", "_OTHER")
    assert (client.name, client.failed, client.attributes["error.type"]) == ("HTTP", True, "upstream_connect")
    assert "http.response.status_code" not in client.attributes


@pytest.mark.usefixtures("soon")
async def test_an_upstreams_own_error_is_not_the_proxys(pki: TestPKI) -> None:
    async def refuse(peer: UpstreamPeer) -> None:
        await peer.request()
        peer.answer(b"no", status="404 Not Found")
        await peer.request()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        peer.abort()

    async with (
        collector() as (collected, url),
        upstream_running(refuse) as upstream,
        traced(pki, url, upstream.url) as end,
    ):
        inner = await end.connect()
        assert (await inner.ask("GET / HTTP/1.1\nHost: echo.t.example")).status == 404
        with pytest.raises(EOFError):
            await inner.ask("GET / HTTP/1.1\nHost: echo.t.example")
        await until(lambda: len(collected.spans) == 4)
    found = [
        (span.kind, span.failed, span.attributes.get("error.type"), span.attributes["http.response.status_code"])
        for span in sorted(collected.spans, key=lambda span: (span.start, span.kind))
    ]
    assert found == [
        (SERVER, False, None, 404),
        (CLIENT, True, "404", 404),
        (SERVER, True, "upstream_aborted", 200),
        (CLIENT, True, "upstream_aborted", 200),
    ]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("status", [429, 503])
async def test_a_collector_that_is_busy_is_asked_again(
    pki: TestPKI, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qanat.proxy")
    async with (
        collector(status, status) as (collected, url),
        upstream_running() as upstream,
        traced(pki, url, upstream.url) as end,
    ):
        await (await end.connect()).ask(ASK, b"hi")
        await until(lambda: len(collected.spans) == 2)
        await until(lambda: sample(end, "sent") == 2)
        assert sample(end, "lost") is None
    assert [record.message for record in caplog.records if "spans" in record.message] == [
        "spans cannot be sent",
        "spans are sent again",
    ]


@pytest.mark.usefixtures("soon")
async def test_spans_that_a_collector_refuses_are_lost_and_counted(pki: TestPKI) -> None:
    async with collector(400) as (collected, url), upstream_running() as upstream:
        async with traced(pki, url, upstream.url) as end:
            inner = await end.connect()
            await inner.ask(ASK, b"hi")
            await until(lambda: sample(end, "lost") == 2)
            await inner.ask(ASK, b"hi")
            await until(lambda: sample(end, "sent") == 2)
        assert len(collected.spans) == 2


async def test_requests_go_on_while_no_collector_is_there_and_the_stop_does_not_wait_for_it(pki: TestPKI) -> None:
    async def mute(peer: UpstreamPeer) -> None:
        await peer.request()
        await asyncio.Event().wait()

    async with upstream_running(mute) as collector, upstream_running() as upstream:
        async with traced(pki, collector.url, upstream.url) as end:
            assert (await (await end.connect()).ask(ASK, b"hi")).status == 200
        assert sample(end, "lost") == 2


async def test_only_so_many_spans_wait() -> None:
    counted: list[tuple[str, int]] = []
    config = Tracing(otlp_endpoint=f"http://127.0.0.1:{free_port()}")
    exporter = Exporter(config, lambda result, count: counted.append((result, count)))
    for _ in range(export.MAX_WAITING + 3):
        exporter.emit({})
    assert counted == [("lost", 1)] * 3
    await exporter.close()
    exporter.emit({})
    assert counted[3:] == [("lost", export.MAX_WAITING), ("lost", 1)]


async def test_without_a_collector_the_context_passes_as_it_is(pki: TestPKI) -> None:
    async with upstream_running() as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        await (await end.connect()).ask(f"{ASK}\nTraceParent: {SAMPLED}", b"hi")
        assert (b"TraceParent", SAMPLED.encode()) in list(upstream.seen[0].headers)


@pytest.mark.parametrize(
    ("tracing", "problem"),
    [
        ({}, "tracing.otlp_endpoint"),
        ({"otlp_endpoint": "collector:4318"}, "must be a URL like http://collector:4318"),
        ({"otlp_endpoint": "http://me:SECRET@collector:4318"}, 'not "collector:4318"'),
        ({"otlp_endpoint": "http://collector:4318", "sample_ratio": 2}, "tracing.sample_ratio"),
        ({"otlp_endpoint": "http://collector:4318", "protocol": "grpc"}, "protocol"),
    ],
)
def test_a_bad_section_is_named(pki: TestPKI, tracing: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigInvalid) as error:
        make_config(pki, {"echo": "http://127.0.0.1:1"}, tracing=tracing)
    assert problem in str(error.value)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_a_ca_that_cannot_be_used_ends_the_start(pki: TestPKI, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=r"ca\.pem: no "):
        async with traced(pki, "https://127.0.0.1:1", "http://127.0.0.1:1", ca_file=str(file)):
            pass


def sample(end: TunnelEnd, result: str) -> float | None:
    return end.proxy.metrics.registry.get_sample_value("mcp_proxy_spans_total", {"result": result})
