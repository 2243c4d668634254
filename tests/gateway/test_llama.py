"""A real, very small model behind llama.cpp, talking through the whole tunnel. Its wit is not what is tested."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from qanat.gateway.server import serve
from tests.gateway.test_tunnels import config
from tests.support.gateway import KEY, DictControl, principal
from tests.support.mcp_stub import stub_mcp
from tests.support.path import edge_running, tunnel_running
from tests.support.requirements import requirement

ENVIRONMENT = Path(__file__).parents[2] / ".venv-llama"
SEARCH = {
    "name": "search",
    "description": "Search the wiki",
    # Short, or a model of this size never finds the closing quote.
    "inputSchema": {"type": "object", "properties": {"q": {"type": "string", "maxLength": 12}}, "required": ["q"]},
}
SCRIPT = Path(__file__).parents[1] / "support" / "llama_server.py"


@asynccontextmanager
async def llama_running() -> AsyncIterator[str]:
    """The URL of a llama.cpp server."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is missing: run make prepare")
    arguments = (str(python), str(SCRIPT), str(ENVIRONMENT / "model"))
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, stderr=nothing)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            while not (line := await process.stdout.readline()).startswith(b"http"):
                assert line, "llama.cpp ended before it listened"
        yield line.decode().strip()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def examples(*words: str) -> list[Any]:
    """Rounds that a model of this size can copy; they also send a history of MCP blocks through the translation."""
    history: list[Any] = []
    for word in words:
        wire_id = f"mcptoolu_01{word}"
        use = {"type": "mcp_tool_use", "id": wire_id, "name": "search", "server_name": "wiki", "input": {"q": word}}
        result = {"type": "mcp_tool_result", "tool_use_id": wire_id, "content": f"a page on {word}"}
        said = {"type": "text", "text": f"There is a page on {word}."}
        history.append({"role": "user", "content": f"Search for {word}"})
        history.append({"role": "assistant", "content": [use, result, said]})
    return history


@pytest.mark.slow
@pytest.mark.timeout(300)
@requirement("gateway:5")
async def test_a_small_model_calls_a_tool_through_the_tunnel(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        llama = await enter(llama_running())
        wiki = await enter(stub_mcp(tools=[SEARCH]))
        parts = await enter(edge_running(tmp_path, ["org_a"]))
        served = await enter(tunnel_running(parts, tmp_path / "a", {"wiki": wiki.url.removesuffix("/mcp")}))
        control = DictControl(principals={KEY: principal("a")}, tunnels={served.record.domain: served.record})
        models = {"gemma": {"upstream": "openai", "base_url": f"{llama}/v1"}}
        settings = config(parts, models=models, limits={"iterations": 2})
        gateway = await enter(serve(settings, control=control))
        client = await enter(AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0, timeout=240))
        kinds = []
        async with client.beta.messages.stream(
            model="gemma",
            max_tokens=120,
            messages=[*examples("cats", "dogs", "owls", "bees"), {"role": "user", "content": "Search for qanats"}],
            mcp_servers=[{"type": "url", "url": served.url("wiki"), "name": "wiki"}],
            tools=[{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            betas=["mcp-client-2025-11-20"],
        ) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
    assert (kinds.count("message_start"), kinds.count("message_stop")) == (1, 1)
    uses = [block for block in message.content if block.type == "mcp_tool_use"]
    results = [block for block in message.content if block.type == "mcp_tool_result"]
    assert uses, message
    assert [block.tool_use_id for block in results] == [block.id for block in uses]
    assert "tools/call" in wiki.methods
    assert message.stop_reason in ("end_turn", "max_tokens", "pause_turn")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
