"""Tunnels from the gateway's side: one's own work, all others look the same."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic, BadRequestError

from qanat.gateway.config import GatewayConfig
from qanat.gateway.server import serve
from tests.support.answers import error_of
from tests.support.gateway import KEY, DictControl, Wiki, gateway_config, principal, wiki_server
from tests.support.path import BASE, PathParts, Served, edge_running, tunnel_running
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECTION = (
    "mcp_servers[0] 'wiki': Connection error while communicating with MCP server. "
    "The server may be unavailable or unresponsive."
)


@dataclass
class Both:
    """Two organizations, each with a tunnel to a wiki of its own, behind one edge and one gateway."""

    client: AsyncAnthropic
    control: DictControl
    parts: PathParts
    a: Served
    b: Served
    wiki_a: Wiki
    wiki_b: Wiki

    async def ask(self, url: str, key: str = KEY) -> Any:
        client = self.client.with_options(api_key=key)
        return await client.beta.messages.create(
            model="qanat-demo",
            max_tokens=1000,
            messages=[{"role": "user", "content": "Search the wiki for 'qanats'"}],
            mcp_servers=[{"type": "url", "url": url, "name": "wiki"}],
            tools=[{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
            betas=["mcp-client-2025-11-20"],
        )

    async def refusal(self, url: str, key: str = KEY) -> str:
        with pytest.raises(BadRequestError) as caught:
            await self.ask(url, key)
        return str(error_of(caught.value)["message"])


def config(parts: PathParts, **changes: Any) -> GatewayConfig:
    host, port = parts.server.client_address
    name = "gateway.example.net"
    edge = {
        "address": f"{host}:{port}",
        "cert_file": parts.files.path(name),
        "key_file": parts.files.path(f"{name}-key"),
        "ca_file": parts.files.path("client-listener-ca"),
        "base_domain": BASE,
    }
    return gateway_config(edge=edge, **changes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    folder: Path = tmp_path_factory.mktemp("path")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        wiki_a, wiki_b = await enter(wiki_server()), await enter(wiki_server())
        parts = await enter(edge_running(folder, ["org_a", "org_b"]))
        routes_a = {"wiki": wiki_a.url.removesuffix("/mcp")}
        routes_b = {"wiki": wiki_b.url.removesuffix("/mcp")}
        a = await enter(tunnel_running(parts, folder / "a", routes_a))
        b = await enter(tunnel_running(parts, folder / "b", routes_b, name="b", label="b5c6d7e8"))
        control = DictControl(principals={KEY: principal("a"), "sk-b": principal("b")})
        control.tunnels = {served.record.domain: served.record for served in (a, b)}
        gateway = await enter(serve(config(parts), control=control))
        client = await enter(AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0, timeout=30))
        yield Both(client, control, parts, a, b, wiki_a, wiki_b)


@requirement("messages:36")
async def test_a_tunnel_of_the_own_workspace_works_end_to_end(both: Both) -> None:
    message = await both.ask(both.a.url("wiki"))
    assert message.content[2].content[0].text == "found qanats"
    assert both.wiki_a.calls[-1] == "qanats"


@requirement("messages:36", "gateway:1")
async def test_every_tunnel_one_may_not_use_is_refused_alike(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    archived = both.a.record.model_copy(update={"archived": True, "domain": f"dead.{BASE}"})
    bare = both.a.record.model_copy(update={"ca_certificates": (), "domain": f"bare.{BASE}"})
    down = both.a.record.model_copy(update={"domain": f"down.{BASE}"})
    both.control.tunnels |= {record.domain: record for record in (archived, bare, down)}
    refusals = {
        "other workspace": await both.refusal(both.b.url("wiki")),
        "from the other side": await both.refusal(both.a.url("wiki"), "sk-b"),
        "unknown": await both.refusal(f"https://wiki.nobody.{BASE}/mcp"),
        "archived": await both.refusal(f"https://wiki.dead.{BASE}/mcp"),
        "no certificate": await both.refusal(f"https://wiki.bare.{BASE}/mcp"),
        "not connected": await both.refusal(f"https://wiki.down.{BASE}/mcp"),
        "no route": await both.refusal(both.a.url("nothing")),
    }
    assert set(refusals.values()) == {CONNECTION}, refusals
    assert both.wiki_b.requests == []
    assert "another workspace" in caplog.text or any(
        "another workspace" in str(vars(record)) for record in caplog.records
    )


@requirement("messages:37")
async def test_a_bare_tunnel_domain_is_refused(both: Both) -> None:
    for url in (f"https://{both.a.record.domain}/mcp", f"https://{BASE}/", f"https://wiki.{both.a.record.domain}:444/"):
        assert (await both.refusal(url)).startswith("mcp_servers.0.url: ")


async def test_a_certificate_taken_away_ends_the_trust(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.gateway.records.BLIND_LIFETIME", 0.0)
    await both.ask(both.b.url("wiki"), "sk-b")
    trusted = both.b.record
    other = trusted.model_copy(update={"ca_certificates": both.a.record.ca_certificates})
    both.control.tunnels[trusted.domain] = other
    assert await both.refusal(both.b.url("wiki"), "sk-b") == CONNECTION
    both.control.tunnels[trusted.domain] = trusted
    await both.ask(both.b.url("wiki"), "sk-b")
