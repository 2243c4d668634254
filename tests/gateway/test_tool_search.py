"""Deferred tools for models that cannot search by themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.gateway.tool_search import rank, run
from tests.gateway.conftest import Bench
from tests.gateway.test_openai import ANSWER, local_model
from tests.support.chat import USAGE, call, stop
from tests.support.mcp_stub import stub_mcp
from tests.support.requirements import requirement

BM25 = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "Where to look"}}}


def tool(name: str, description: str = "") -> dict[str, Any]:
    return {"name": name, "description": description, "input_schema": {"type": "object"}, "defer_loading": True}


TOOLS = [
    tool("tickets_closeTicket", "Close a ticket"),
    tool("tickets_list", "List open tickets of a project"),
    tool("weather_forecast", "Tomorrow's weather"),
    {**tool("weather_now"), "input_schema": SCHEMA},
]


def test_tools_are_found_by_words_of_their_names_descriptions_and_arguments() -> None:
    assert rank("weather tomorrow", TOOLS) == ["weather_forecast", "weather_now"]
    assert rank("close", TOOLS) == ["tickets_closeTicket"]
    assert rank("city", TOOLS) == ["weather_now"]
    assert rank("nothing of the kind", TOOLS[2:]) == []
    assert rank("weather", []) == []


@given(st.text(), st.lists(st.text(min_size=1)))
def test_any_query_is_answered(query: str, found: list[str]) -> None:
    assert set(rank(query, [tool(name) for name in found])) <= set(found)


@pytest.mark.parametrize("arguments", [{}, {"query": 3}, {"query": "x", "limit": "all"}, {"query": "x" * 2000}])
def test_a_search_that_makes_no_sense_is_an_error_result(arguments: dict[str, Any]) -> None:
    result = run({"id": "srvtoolu_1", "input": arguments}, TOOLS)
    assert result["content"]["error_code"] == "invalid_tool_input"


def test_a_search_gives_no_more_than_asked_for_and_only_deferred_tools() -> None:
    shown = {key: value for key, value in TOOLS[2].items() if key != "defer_loading"}
    result = run({"id": "srvtoolu_1", "input": {"query": "weather tickets", "limit": 2}}, [*TOOLS[:2], shown])
    names = [reference["tool_name"] for reference in result["content"]["tool_references"]]
    assert names == ["tickets_list", "tickets_closeTicket"]


@requirement("gateway:8")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_local_model_searches_calls_what_it_found_and_keeps_it_in_a_replay(bench: Bench) -> None:
    search = call('{"query": "search"}', "tool_search_tool_bm25", index=0, id="s1")
    use = call('{"q": "x"}', "wiki_search", index=0, id="c1")
    async with local_model(bench) as (server, client), stub_mcp() as stub:
        stub.tools = [
            {"name": "search", "description": "Search the wiki", "inputSchema": {"type": "object"}},
            {"name": "erase", "description": "Erase a page", "inputSchema": {"type": "object"}},
        ]
        request = bench.request(
            model="local",
            mcp_servers=[{"type": "url", "url": stub.url, "name": "wiki"}],
            tools=[BM25, bench.toolset(default_config={"defer_loading": True})],
        )
        messages: list[Any] = []
        for _ in range(2):
            server.script = [[search, stop("tool_calls"), USAGE], [use, stop("tool_calls"), USAGE], ANSWER]
            if messages:
                messages.append(await client.beta.messages.create(**request))
            else:
                async with client.beta.messages.stream(**request) as stream:
                    messages.append(await stream.get_final_message())
        offered = [[entry["function"]["name"] for entry in body["tools"]] for body in server.bodies]
        message = messages[0]
        assert [block.type for block in message.content] == [
            "server_tool_use",
            "tool_search_tool_result",
            "mcp_tool_use",
            "mcp_tool_result",
            "text",
        ]
        assert message.content[0].id.startswith("srvtoolu_")
        assert message.content[0].input == {"query": "search"}
        assert message.content[1].content.tool_references[0].tool_name == "wiki_search"
        assert [block.type for block in messages[1].content] == [block.type for block in message.content]
        assert offered[:3] == [["tool_search_tool_bm25"], *[["tool_search_tool_bm25", "wiki_search"]] * 2]
        history = [
            {"role": "user", "content": "Question"},
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
            {"role": "user", "content": "More"},
        ]
        server.script = [ANSWER]
        await client.beta.messages.create(**{**request, "messages": history})
        body = server.bodies[-1]
    assert [entry["function"]["name"] for entry in body["tools"]] == ["tool_search_tool_bm25", "wiki_search"]
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant", "user"]
    assert body["messages"][1]["tool_calls"][0]["id"] == body["messages"][2]["tool_call_id"]
    assert json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"query": "search"}
    assert "wiki_search" in body["messages"][2]["content"]


@requirement("gateway:8")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_search_beside_a_call_of_the_clients_is_answered_at_once(bench: Bench) -> None:
    search = call('{"query": "search"}', "tool_search_tool_bm25", index=0, id="s1")
    mine = call("{}", "weather", index=1, id="w1")
    weather = {"name": "weather", "input_schema": {"type": "object"}}
    tools = [BM25, bench.toolset(default_config={"defer_loading": True}), weather]
    async with local_model(bench) as (server, client):
        server.script = [[search, mine, stop("tool_calls"), USAGE]]
        message = await client.beta.messages.create(**bench.request(model="local", tools=tools))
        kinds = [block.type for block in message.content]
        assert sorted(kinds) == ["server_tool_use", "tool_search_tool_result", "tool_use"]
        assert message.stop_reason == "tool_use"
        use = next(block for block in message.content if block.type == "tool_use")
        history = [
            {"role": "user", "content": "Question"},
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]},
        ]
        server.script = [ANSWER]
        await client.beta.messages.create(**bench.request(model="local", tools=tools, messages=history))
        body = server.bodies[-1]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool"]
    calls = [made["id"] for made in body["messages"][1]["tool_calls"]]
    assert [answered["tool_call_id"] for answered in body["messages"][2:]] == calls
