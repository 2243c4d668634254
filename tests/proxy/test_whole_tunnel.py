"""MCP through the whole tunnel (client, edge, connector, proxy): the same as without it, in either arrangement."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import get_args

import pytest
from mcp.client.streamable_http import streamable_http_client

from tests.support.conformance_server import make_server
from tests.support.mcp_server import Bench, Heard, client_for, converse, serve
from tests.support.node_clients import CONVERSATION, differences, everything, inspect, needs_node, node, verdicts
from tests.support.path import BASE
from tests.support.proxy import WAIT, UpstreamPeer, upstream_running
from tests.support.requirements import requirement
from tests.support.whole_tunnel import Arrangement, whole_tunnel

ARRANGEMENTS: tuple[Arrangement, ...] = get_args(Arrangement)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


def disguised(url: str) -> dict[str, object]:
    """Routes for the suite, which insists on a server on 127.0.0.1, and attacks it with a foreign Host."""
    names = (f"echo.a1b2c3d4.{BASE}", "127.0.0.1", "evil.example.com")
    return {name: {"upstream": url, "host_header": "preserve"} for name in names}


@needs_node
@requirement("proxy:27")
@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize("subject", ["python", "typescript"])
async def test_the_conformance_suite_reaches_the_same_verdict_on_every_scenario(
    tmp_path: Path, subject: str, revision: str
) -> None:
    async with serve(make_server()) if subject == "python" else everything() as url:
        direct = await verdicts(url, revision)
        different = {}
        for arrangement in ARRANGEMENTS:
            folder = tmp_path / arrangement
            folder.mkdir()
            async with whole_tunnel(folder, disguised(url), arrangement) as tunnel, tunnel.plain_port("echo") as port:
                through = await verdicts(f"http://127.0.0.1:{port.port}", revision)
                different[arrangement] = differences(direct, through)
    passed = sum(mark == "✓" for mark, _, _ in direct.values())
    print(f"\n{subject} {revision}: {len(direct)} scenarios, {passed} passed directly, different: {different}")
    assert different == {arrangement: set() for arrangement in ARRANGEMENTS}


@requirement("proxy:27", "proxy:34")
@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
async def test_the_python_client_has_the_same_conversation(tmp_path: Path, arrangement: Arrangement, mode: str) -> None:
    bench = Bench()
    async with (
        bench.running() as url,
        whole_tunnel(tmp_path, {"echo": url}, arrangement) as tunnel,
        tunnel.client() as http,
    ):
        direct = await converse(f"{url}/mcp", mode)
        tunnelled = await converse(streamable_http_client(tunnel.url("echo"), http_client=http), mode)
    assert tunnelled == direct
    assert direct["add {'a': 1, 'b': 2}"]["structured_content"] == {"result": 3}
    assert len(direct["progress"]) == 5


@requirement("proxy:30")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
async def test_a_cancelled_call_is_cancelled_in_the_server(tmp_path: Path, arrangement: Arrangement, mode: str) -> None:
    bench = Bench()
    async with (
        bench.running() as url,
        whole_tunnel(tmp_path, {"echo": url}, arrangement) as tunnel,
        tunnel.client() as http,
        client_for(streamable_http_client(tunnel.url("echo"), http_client=http), mode, Heard()) as client,
    ):
        call = asyncio.create_task(client.call_tool("hang"))
        async with asyncio.timeout(WAIT):
            await bench.waiting.wait()
            call.cancel()
            await bench.cancelled.wait()
        await asyncio.gather(call, return_exceptions=True)


@requirement("oauth:1")
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
async def test_a_protected_servers_401_and_its_metadata_arrive_as_the_server_sent_them(
    tmp_path: Path, arrangement: Arrangement
) -> None:
    prm = "/.well-known/oauth-protected-resource/mcp"
    resource = f"https://echo.a1b2c3d4.{BASE}/mcp"
    challenge = f'Bearer error="invalid_token", resource_metadata="{resource.removesuffix("/mcp")}{prm}", scope="a b"'
    document = json.dumps({"resource": resource, "authorization_servers": ["https://sso.example"]}).encode()

    async def protected(peer: UpstreamPeer) -> None:
        while True:
            if (await peer.request()).target.startswith(prm):
                peer.answer(document, "Content-Type: application/json")
            else:
                headers = ("Content-Type: application/json", f"WWW-Authenticate: {challenge}", "X-Reason: expired")
                peer.answer(b'{"error":"invalid_token"}', *headers, status="401 Unauthorized")

    async with (
        upstream_running(protected) as upstream,
        whole_tunnel(tmp_path, {"echo": upstream.url}, arrangement) as tunnel,
        tunnel.client() as http,
    ):
        refused = await http.post(tunnel.url("echo"), json={"jsonrpc": "2.0", "id": 1, "method": "initialize"})
        assert (refused.status_code, refused.content) == (401, b'{"error":"invalid_token"}')
        assert refused.headers.get_list("www-authenticate") == [challenge]
        assert refused.headers["x-reason"] == "expired"
        assert (await http.get(tunnel.url("echo", prm))).content == document


async def test_trace_context_and_baggage_arrive_as_they_were_sent(tmp_path: Path) -> None:
    context = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        "baggage": "tenant=a%20b;ttl=1",
    }
    async with (
        upstream_running() as upstream,
        whole_tunnel(tmp_path, {"echo": upstream.url}, "apart") as tunnel,
        tunnel.client() as http,
    ):
        assert (await http.get(tunnel.url("echo"), headers=context)).status_code == 200
        assert {name: upstream.seen[0].all(name) for name in context} == {k: [v] for k, v in context.items()}


@needs_node
@requirement("proxy:27")
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
async def test_the_typescript_client_has_the_same_conversation(tmp_path: Path, arrangement: Arrangement) -> None:
    async with everything() as url:
        direct = await node(CONVERSATION, f"{url}/mcp")
        async with whole_tunnel(tmp_path, {"echo": url}, arrangement) as tunnel, tunnel.forward("echo") as forward:
            assert await node(CONVERSATION, f"{forward.url}/mcp") == direct
    assert json.loads(direct.splitlines()[-1])["echo"] == "Echo: water"


@needs_node
@requirement("proxy:27")
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
async def test_the_inspectors_command_line_prints_the_same(tmp_path: Path, arrangement: Arrangement) -> None:
    async with (
        Bench().running() as url,
        whole_tunnel(tmp_path, {"echo": url}, arrangement) as tunnel,
        tunnel.forward("echo") as forward,
    ):
        for method in ("tools/list", "resources/templates/list", "prompts/list", "tools/call"):
            assert await inspect(forward.url, method) == await inspect(url, method)
