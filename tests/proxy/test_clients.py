"""The official MCP clients and the conformance suite: the same verdict with and without the proxy in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.conformance_server import make_server
from tests.support.mcp_server import Bench, serve
from tests.support.node_clients import (
    CONVERSATION,
    RESOLVE,
    differences,
    everything,
    inspect,
    needs_node,
    node,
    verdicts,
)
from tests.support.proxy import DOMAIN, TestPKI, proxy_running
from tests.support.proxy_bridge import bridge_running
from tests.support.requirements import requirement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    needs_node,
]


@asynccontextmanager
async def tunnelled(pki: TestPKI, url: str, folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """The server's URL through the proxy, and the environment in which a Node client can reach it."""
    trust = folder / "ca.pem"
    trust.write_bytes(pki.ca.certificate_pem)
    async with proxy_running(pki, {"echo": url}) as end, bridge_running(end) as bridge:
        environment = {"NODE_EXTRA_CA_CERTS": str(trust), "NODE_OPTIONS": f"--require {RESOLVE}"}
        yield f"https://echo.{DOMAIN}:{bridge.port}", environment


@asynccontextmanager
async def tunnelled_in_disguise(pki: TestPKI, url: str) -> AsyncIterator[str]:
    """The same as a plain URL on 127.0.0.1, because the suite insists on one.

    One scenario attacks a local server with a foreign Host; a route lets it through to be refused by the server.
    """
    name = f"echo.{DOMAIN}"
    routes = {key: {"upstream": url, "host_header": "preserve"} for key in (name, "127.0.0.1", "evil.example.com")}
    async with proxy_running(pki, routes) as end, bridge_running(end, sni=name) as bridge:
        yield f"http://127.0.0.1:{bridge.port}"


@requirement("proxy:27")
@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize("subject", ["python", "typescript"])
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_the_conformance_suite_reaches_the_same_verdict_on_every_scenario(
    pki: TestPKI, subject: str, revision: str
) -> None:
    async with serve(make_server()) if subject == "python" else everything() as url:
        direct = await verdicts(url, revision)
        async with tunnelled_in_disguise(pki, url) as through:
            tunnelled_verdicts = await verdicts(through, revision)
    different = differences(direct, tunnelled_verdicts)
    passed = sum(mark == "✓" for mark, _, _ in direct.values())
    print(f"\n{subject} {revision}: {len(direct)} scenarios, {passed} passed directly, {len(different)} different")
    assert different == set()


@requirement("proxy:27")
@pytest.mark.parametrize("method", ["tools/list", "resources/templates/list", "prompts/list", "tools/call"])
async def test_the_inspectors_command_line_prints_the_same(pki: TestPKI, tmp_path: Path, method: str) -> None:
    async with Bench().running() as url:
        direct = await inspect(url, method)
        async with tunnelled(pki, url, tmp_path) as (through, environment):
            assert await inspect(through, method, environment) == direct


@requirement("proxy:27")
async def test_the_typescript_client_has_the_same_conversation(pki: TestPKI, tmp_path: Path) -> None:
    async with everything() as url:
        direct = await node(CONVERSATION, f"{url}/mcp")
        async with tunnelled(pki, url, tmp_path) as (through, environment):
            assert await node(CONVERSATION, f"{through}/mcp", environment=environment) == direct
    heard = json.loads(direct.splitlines()[-1])
    assert heard["echo"] == "Echo: water"
    assert heard["progress"] > 0
