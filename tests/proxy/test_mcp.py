"""MCP through the proxy, with the official SDK at both ends: the same as without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.transport_security import TransportSecuritySettings

from tests.support.mcp_server import Bench, Heard, MemoryEventStore, client_for, converse, serve
from tests.support.proxy import DOMAIN, WAIT, TestPKI, proxy_running
from tests.support.proxy_bridge import Bridge, ThroughBridge, bridge_running, http_client
from tests.support.requirements import requirement

URL = f"https://echo.{DOMAIN}/mcp"
ERAS = [pytest.param("auto", marks=pytest.mark.slow), "legacy", pytest.param("2026-07-28", marks=pytest.mark.slow)]


@asynccontextmanager
async def through(pki: TestPKI, url: str, **changes: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, Bridge]]:
    """A client whose requests reach `url` by way of a proxy."""
    async with (
        proxy_running(pki, {"echo": url}, **changes) as end,
        bridge_running(end) as bridge,
        http_client(end, bridge=bridge, timeout=httpx2.Timeout(WAIT)) as client,
    ):
        yield client, bridge


@requirement("proxy:27", "proxy:34", "proxy:35")
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.slow
async def test_a_whole_conversation_is_the_same_directly_and_through_the_proxy(pki: TestPKI, mode: str) -> None:
    bench = Bench()
    async with bench.running() as url, through(pki, url) as (client, _):
        direct = await converse(f"{url}/mcp", mode)
        tunnelled = await converse(streamable_http_client(URL, http_client=client), mode)
    assert tunnelled == direct
    assert direct["add {'a': 1, 'b': 2}"]["structured_content"] == {"result": 3}
    assert len(direct["progress"]) == 5
    assert ("sampled" in str(direct["ask_model {}"])) is (mode == "legacy")


@pytest.mark.slow
@requirement("proxy:27")
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_the_wire_of_2024_with_its_endpoint_event_works_too(pki: TestPKI) -> None:
    bench = Bench()
    async with serve(bench.server, legacy_sse=True) as url, through(pki, url) as (_, bridge):

        def make_client(*args: object, **kwargs: object) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=ThroughBridge(bridge.port, pki.context(), http1=True, http2=False))

        direct = await converse(sse_client(f"{url}/sse"), "legacy")
        tunnelled = await converse(sse_client(URL.replace("/mcp", "/sse"), httpx_client_factory=make_client), "legacy")
    assert tunnelled == direct
    assert direct["add {'a': 1, 'b': 2}"]["structured_content"] == {"result": 3}


@requirement("proxy:30")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_cancelled_call_is_cancelled_in_the_server(pki: TestPKI, mode: str) -> None:
    bench = Bench()
    async with (
        bench.running() as url,
        through(pki, url) as (http, _),
        client_for(streamable_http_client(URL, http_client=http), mode, Heard()) as client,
    ):
        call = asyncio.create_task(client.call_tool("hang"))
        async with asyncio.timeout(WAIT):
            await bench.waiting.wait()
            call.cancel()
            await bench.cancelled.wait()
        await asyncio.gather(call, return_exceptions=True)


@requirement("proxy:29")
async def test_a_cut_stream_is_resumed_by_last_event_id_and_nothing_is_missing(pki: TestPKI) -> None:
    bench, store, heard = Bench(), MemoryEventStore(), Heard()
    async with (
        bench.running(event_store=store, retry_interval=10) as url,
        through(pki, url) as (http, bridge),
        client_for(streamable_http_client(URL, http_client=http), "legacy", heard) as client,
    ):
        call = asyncio.create_task(client.call_tool("steps", progress_callback=heard.hear_progress))
        async with asyncio.timeout(WAIT):
            await bench.waiting.wait()
            while not heard.progress:
                await asyncio.wait([call], timeout=0.01)
            bridge.cut()
            bench.go_on.set()
            result = await call
    assert result.structured_content == {"result": "all steps"}
    assert [progress for progress, _, _ in heard.progress] == [1, 2]
    assert store.replayed_after


@pytest.mark.slow
@requirement("proxy:28", "proxy:32")
@pytest.mark.parametrize("json_response", [True, False])
async def test_a_call_outlives_every_timer_we_have(pki: TestPKI, json_response: bool) -> None:
    bench, heard = Bench(), Heard()
    short = {"allowed_ips": ["127.0.0.1"], "idle_timeout": "300ms"}
    limits = {"idle_timeout": "300ms"}  # long enough that no request of the client crosses our close
    async with (
        bench.running(json_response=json_response) as url,
        through(pki, url, upstream=short, limits=limits) as (http, _),
        client_for(streamable_http_client(URL, http_client=http), "legacy", heard) as client,
    ):
        call = asyncio.create_task(client.call_tool("steps", progress_callback=heard.hear_progress))
        await bench.waiting.wait()
        await asyncio.wait([call], timeout=1.5)  # five times longer than any of ours
        assert not call.done()
        bench.go_on.set()
        assert (await call).structured_content == {"result": "all steps"}


@requirement("proxy:35")
async def test_a_server_bound_to_loopback_refuses_a_preserved_host_and_the_log_says_what_to_do(
    pki: TestPKI, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    async with bench.running() as url:
        async with through(pki, url, upstream={"allowed_ips": ["127.0.0.1"], "host_header": "preserve"}) as (client, _):
            for _ in range(2):
                assert (await client.post("/mcp", json=body, headers=accept)).status_code == 421
        async with through(pki, url) as (client, _):
            assert (await client.post("/mcp", json=body, headers=accept)).status_code == 400  # no session: it arrived
    hints = [record.getMessage() for record in caplog.records if "rejected Host" in record.getMessage()]
    expected = f'upstream rejected Host "echo.{DOMAIN}"; set host_header or the server\'s allowed hosts'
    assert hints == [expected]


async def test_a_server_that_names_its_hosts_is_reached_with_a_literal_one(pki: TestPKI) -> None:
    bench = Bench()
    security = TransportSecuritySettings(allowed_hosts=["mcp.corp:*"])
    async with (
        bench.running(transport_security=security) as url,
        through(pki, url, upstream={"allowed_ips": ["127.0.0.1"], "host_header": "mcp.corp:1"}) as (http, _),
        client_for(streamable_http_client(URL, http_client=http), "auto", Heard()) as client,
    ):
        assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}


@requirement("proxy:36")
async def test_the_frameworks_own_trailing_slash_redirect_can_be_followed(pki: TestPKI) -> None:
    bench = Bench()
    async with bench.running() as url, through(pki, url) as (client, _):
        answer = await client.post("/mcp/", json={})
        assert answer.status_code == 307
        assert answer.headers["location"] == URL


@requirement("proxy:31")
async def test_a_repeated_routing_header_is_refused_by_the_server_itself(pki: TestPKI) -> None:
    bench = Bench()
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    headers = [
        ("Accept", "application/json, text/event-stream"), ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/list"), ("Mcp-Method", "tools/list"),
    ]  # fmt: skip
    async with bench.running() as url, through(pki, url) as (client, _):
        assert (await client.post("/mcp", json=body, headers=headers[:3])).status_code == 200
        answer = await client.post("/mcp", json=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == -32020
