"""The same conversations with every official SDK we promise to serve."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic, beta_async_tool
from anthropic.types import ToolNameConflictError

from qanat.gateway.server import Gateway
from tests.support.gateway import KEY, ScriptedModel, Wiki, reflex_model, running_gateway, wiki_server
from tests.support.requirements import requirement

ROOT = Path(__file__).parents[2]
NPM = ROOT / "tests" / "npm"
ENVIRONMENTS = {
    "0.125.0": ROOT / ".venv-anthropic-0/bin/python",
    "1.17.0": ROOT / ".venv-anthropic-1/bin/python",
    "2.12.0": Path(sys.executable),
}
ONE = ["mcp_tool_use", "mcp_tool_result", "text"]


async def converse(*command: str) -> tuple[dict[str, Any], ScriptedModel]:
    """What a program saw that talked to a gateway, and the model behind it."""
    async with reflex_model() as model, wiki_server() as wiki, running_gateway(model.url) as gateway:
        arguments = (*command, gateway.url, KEY, wiki.url)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe, cwd=NPM)
        try:
            out, err = await asyncio.wait_for(process.communicate(), 120)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, err.decode()
    return json.loads(out), model


def check(seen: dict[str, Any]) -> None:
    """Conformance checks 1, 3, 4, 5, 6, 8 and 19 on what was seen."""
    one = seen["one"]
    assert (one["types"], one["stop_reason"], one["servers"][0]) == (ONE, "end_turn", "wiki")
    assert one["pairs"][0] == one["pairs"][1]
    assert one["iterations"] == [[10, 20], [10, 20]]
    assert one["tokens"] == [20, 40]
    assert seen["streamed"] == one
    kinds = [kind for kind, _ in seen["raw"]]
    assert (kinds[0], kinds[-1], kinds.count("message_start")) == ("message_start", "message_stop", 1)
    assert [index for kind, index in seen["raw"] if kind == "content_block_start"] == [0, 1, 2]
    two = seen["two"]
    assert two["types"] == ["mcp_tool_use"] * 2 + ["mcp_tool_result"] * 2 + ["text"]
    assert two["pairs"][:2] == two["pairs"][2:4]
    assert seen["replayed"]["types"] == ["text"]
    assert (seen["mixed"]["types"], seen["mixed"]["stop_reason"]) == (["tool_use", "mcp_tool_use"], "tool_use")
    assert seen["resumed"]["types"] == ["mcp_tool_result", "text"]
    assert (seen["two_streamed"], seen["mixed_streamed"]) == (two, seen["mixed"])
    assert seen["deprecated"]["types"] == seen["one"]["types"]
    assert seen["refused"] == ["invalid_request_error"] * 6
    assert (seen["models"], seen["missing"]) == (["qanat-demo", "stub"], "not found")
    assert seen["counts_tools"]


def check_history(model: ScriptedModel) -> None:
    """Check 8 on what the upstream saw of the replay."""
    replay = next(body for body in model.bodies if "more" in json.dumps(body["messages"][-1]))
    assert [message["role"] for message in replay["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert replay["messages"][1]["content"][0]["id"] == "toolu_00"


@pytest.mark.slow
@pytest.mark.parametrize("version", ENVIRONMENTS)
@requirement(*(f"messages:{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 19, 21, 24, 25, 35, 39)))
async def test_every_python_sdk_sees_the_documented_blocks(version: str) -> None:
    python = ENVIRONMENTS[version]
    if not python.exists():
        pytest.skip(f"{python} is missing: run make prepare")
    seen, model = await converse(str(python), str(Path(__file__).with_name("sdk_conversation.py")))
    assert seen["version"] == version
    check(seen)
    check_history(model)
    assert seen["one"]["classes"] == ["BetaMCPToolUseBlock", "BetaMCPToolResultBlock", "BetaTextBlock"]
    assert seen["result_class"] == "BetaTextBlock"
    assert "input_json" in seen["helper_events"]
    assert seen["async_one"] == seen["async_streamed"] == seen["one"]
    assert seen["bearer"]["types"] == ["text"]
    paused = ["pause_turn"] if version.startswith("0.") else ["pause_turn", "end_turn"]
    assert seen["runner"] == paused


@pytest.mark.slow
@requirement("gateway:4")
async def test_the_typescript_sdk_sees_the_documented_blocks() -> None:
    node = shutil.which("node")
    if node is None or not (NPM / "node_modules/@anthropic-ai/sdk").exists():
        pytest.skip("node or @anthropic-ai/sdk is missing: run make prepare")
    seen, model = await converse(node, str(NPM / "conversation.mjs"))
    check(seen)
    check_history(model)


@beta_async_tool
async def weather(city: str = "") -> str:
    """The weather."""
    return "sunny"


@asynccontextmanager
async def client_and_wiki() -> AsyncIterator[tuple[AsyncAnthropic, Gateway, ScriptedModel, Wiki]]:
    async with (
        reflex_model() as model,
        wiki_server() as wiki,
        running_gateway(model.url) as gateway,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client,
    ):
        yield client, gateway, model, wiki


@pytest.mark.slow
@requirement("messages:26")
async def test_the_tool_runner_gives_threads_up_and_sends_full_histories() -> None:
    async with client_and_wiki() as (client, gateway, model, wiki):
        runner = client.beta.messages.tool_runner(
            model="stub",
            max_tokens=1000,
            messages=[{"role": "user", "content": "mixed"}],
            mcp_servers=[{"type": "url", "url": wiki.url, "name": "wiki"}],
            tools=[weather, {"type": "mcp_toolset", "mcp_server_name": "wiki"}],
            betas=["mcp-client-2025-11-20"],
        )
        final = await runner.until_done()
    assert [block.type for block in final.content] == ["mcp_tool_result", "text"]
    assert wiki.calls == ["q1"]
    assert [message["role"] for message in model.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert 'status="400"} 1.0' in gateway.metrics.render().decode()


@pytest.mark.slow
@requirement("messages:31")
async def test_the_sdk_has_a_name_for_colliding_tools() -> None:
    clash: Any = {"name": "wiki_search", "input_schema": {"type": "object"}}
    async with client_and_wiki() as (client, _, _, wiki):
        with pytest.raises(ToolNameConflictError):
            await client.beta.messages.create(
                model="stub",
                max_tokens=10,
                messages=[{"role": "user", "content": "one"}],
                mcp_servers=[{"type": "url", "url": wiki.url, "name": "wiki"}],
                tools=[clash, {"type": "mcp_toolset", "mcp_server_name": "wiki"}],
                betas=["mcp-client-2025-11-20"],
            )
