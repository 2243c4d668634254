"""MCP servers that do one thing badly: what they do well goes on being of use."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.conftest import Bench
from tests.support.gateway import text, use
from tests.support.mcp_stub import SEARCH, Block, stub_mcp
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")


def at(url: str) -> dict[str, Any]:
    return {"mcp_servers": [{"type": "url", "url": url, "name": "wiki"}]}


def calls(*queries: str) -> list[Block]:
    return [use("wiki_search", {"q": query}, f"toolu_{number}") for number, query in enumerate(queries)]


def results(message: Any) -> list[tuple[bool, str]]:
    """Whether each call failed, and what it brought."""
    blocks = [block for block in message.content if block.type == "mcp_tool_result"]
    return [(block.is_error, "".join(part.text for part in block.content)) for block in blocks]


LOST = (True, "The connection to the MCP server was lost.")


async def found(parameters: Block) -> Block:
    return {"content": [text(f"found {parameters['arguments']['q']}")]}


@requirement("messages:15")
@pytest.mark.parametrize(
    "entry",
    [
        {"name": "bad", "inputSchema": {"type": "string"}},
        {"name": "bad", "inputSchema": {"type": "object", "required": "q"}},
        {"name": "bad", "inputSchema": None},
        {"name": "bad"},
        {"name": "", "inputSchema": {"type": "object"}},
        {"inputSchema": {"type": "object"}},
        "bad",
    ],
)
async def test_an_entry_that_is_no_tool_costs_only_itself(
    bench: Bench, caplog: pytest.LogCaptureFixture, entry: Any
) -> None:
    bench.script([text("Hi")])
    async with stub_mcp(tools=[entry, SEARCH]) as stub:
        await bench.create(**at(stub.url))
    assert [tool["name"] for tool in bench.model.bodies[0]["tools"]] == ["wiki_search"]
    assert "tools of an mcp server left out" in caplog.text


async def test_what_the_gateway_does_not_use_of_a_tool_may_be_wrong(bench: Bench) -> None:
    odd = {**SEARCH, "description": 5, "annotations": "none", "outputSchema": [], "icons": 1, "title": {}, "_meta": 1}
    bench.script([text("Hi")])
    async with stub_mcp(tools=[odd]) as stub:
        await bench.create(**at(stub.url))
    assert bench.model.bodies[0]["tools"] == [{"name": "wiki_search", "input_schema": {"type": "object"}}]


async def test_a_tool_that_is_listed_twice_is_the_first_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def page(parameters: Block) -> Block:
        last = "cursor" in parameters
        again = {**SEARCH, "description": "on the second page" if last else "again"}
        return {"tools": [again] if last else [SEARCH, again]} | ({} if last else {"nextCursor": "2"})

    bench.script([text("Hi")])
    async with stub_mcp(on={"tools/list": page}) as stub:
        message = await bench.create(**at(stub.url), betas=["mcp-client-2026-09-15"])
    assert [tool.description for tool in message.content[0].tools] == ["Search"]
    assert [tool["description"] for tool in bench.model.bodies[0]["tools"]] == ["Search"]
    assert "tools of an mcp server left out" in caplog.text


async def test_pages_that_never_end_are_read_up_to_a_limit(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def page(_: Block) -> Block:
        return {"tools": [SEARCH], "nextCursor": "again"}

    bench.script([text("Hi")])
    async with stub_mcp(on={"tools/list": page}) as stub:
        await bench.create(**at(stub.url))
        assert stub.methods.count("tools/list") == 50
    assert "tools of an mcp server left out" in caplog.text
