"""Many conversations at once through one tunnel, each with a canary of its own."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from qanat.gateway.server import serve
from tests.gateway.test_tunnels import config
from tests.support.gateway import KEY, DictControl, principal, wiki_server
from tests.support.path import edge_running, tunnel_running
from tests.support.requirements import requirement

CONVERSATIONS = 200


def resident_megabytes() -> float:
    """Memory of this process, which holds every part of the path and the clients as well."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 1024 / 1024


async def converse(http: httpx2.AsyncClient, url: str, canary: str) -> str:
    """The text of one streamed answer."""
    body = {
        "model": "qanat-demo",
        "max_tokens": 1000,
        "stream": True,
        "messages": [{"role": "user", "content": f"Search the wiki for '{canary}'"}],
        "mcp_servers": [{"type": "url", "url": url, "name": "wiki", "authorization_token": f"token-{canary}"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
    }
    response = await http.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    return response.text


@pytest.mark.slow
@requirement("gateway:2")
async def test_200_streaming_conversations_do_not_mix(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        wiki = await enter(wiki_server())
        parts = await enter(edge_running(tmp_path, ["org_a"]))
        served = await enter(tunnel_running(parts, tmp_path / "a", {"wiki": wiki.url.removesuffix("/mcp")}))
        control = DictControl(principals={KEY: principal("a")}, tunnels={served.record.domain: served.record})
        gateway = await enter(serve(config(parts), control=control))
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "mcp-client-2025-11-20"}
        limits = httpx2.Limits(max_connections=None)
        http = await enter(httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=55, limits=limits))
        canaries = [f"canary{number:04d}" for number in range(CONVERSATIONS)]
        before = resident_megabytes()
        answers = await asyncio.gather(*(converse(http, served.url("wiki"), canary) for canary in canaries))
        grown = resident_megabytes() - before
    for canary, answer in zip(canaries, answers, strict=True):
        result = next(line for line in answer.splitlines() if '"mcp_tool_result"' in line)
        block = json.loads(result.removeprefix("data: "))["content_block"]
        assert block["content"][0]["text"] == f"found {canary}"
        others = [other for other in canaries if other != canary and other in answer]
        assert others == []
    assert sorted(wiki.calls) == canaries
    print(f"\n{CONVERSATIONS} conversations: {grown:.0f} MB more for all parts and clients together")
    assert grown < 500
