"""The documented conversation, with the official SDK at one end and a scripted model at the other."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from anthropic.types.beta import BetaMCPToolResultBlock, BetaMCPToolUseBlock, BetaTextBlock

from tests.gateway.conftest import BETA, Bench
from tests.support.gateway import KEY, principal, text, use
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")


def types(message: Any) -> list[str]:
    return [block.type for block in message.content]


def one_call(bench: Bench) -> None:
    bench.script([use("wiki_search", {"q": "x"})], [text("It is x.")])


@requirement("messages:1", "messages:2", "messages:39")
async def test_a_call_and_its_result_come_back_in_one_response(bench: Bench) -> None:
    one_call(bench)
    message = await bench.create()
    called, result, said = message.content
    assert isinstance(called, BetaMCPToolUseBlock)
    assert (called.server_name, called.name, called.input) == ("wiki", "search", {"q": "x"})
    assert isinstance(result, BetaMCPToolResultBlock)
    assert (result.tool_use_id, result.is_error) == (called.id, False)
    assert isinstance(result.content[0], BetaTextBlock)
    assert result.content[0].text == "found x"
    assert said.text == "It is x."
    assert (message.stop_reason, message.model, message.id[:6]) == ("end_turn", "stub", "msg_01")
    first = bench.model.bodies[0]
    assert [tool["name"] for tool in first["tools"]] == ["wiki_search"]
    assert "mcp_servers" not in first
    assert "mcp-client" not in bench.model.headers[0].get("anthropic-beta", "")
    assert bench.model.headers[0]["x-api-key"] == "upstream-key"


@requirement("messages:3", "messages:39")
async def test_the_stream_helper_ends_in_the_same_message(bench: Bench) -> None:
    one_call(bench)
    whole = await bench.create()
    one_call(bench)
    seen: list[Any] = []
    async with bench.client.beta.messages.stream(**bench.request()) as stream:
        seen.extend([event async for event in stream])
        final = await stream.get_final_message()
    assert final.model_dump(exclude={"id"}) == whole.model_dump(exclude={"id"})
    assert any(event.type == "input_json" for event in seen)
    raw = [event for event in seen if event.type.startswith(("message_", "content_block_"))]
    assert [event.index for event in raw if event.type == "content_block_start"] == [0, 1, 2]
    assert [event.type for event in raw].count("message_start") == 1
    assert (raw[0].type, raw[-1].type) == ("message_start", "message_stop")
    openings = [event.content_block.type for event in raw if event.type == "content_block_start"]
    assert openings == ["mcp_tool_use", "mcp_tool_result", "text"]


@requirement("messages:4")
async def test_every_frame_is_named_by_its_type(bench: Bench) -> None:
    one_call(bench)
    known = {"message_start", "message_delta", "message_stop"}
    known |= {"content_block_start", "content_block_delta", "content_block_stop"}
    async for event in await bench.create(stream=True):
        assert event.type in known
    one_call(bench)
    body = {name: value for name, value in bench.request(stream=True).items() if name != "betas"}
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": BETA}
    async with httpx2.AsyncClient() as http:
        response = await http.post(f"{bench.gateway.url}/v1/messages", json=body, headers=headers)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["request-id"].startswith("req_")
    assert response.headers["anthropic-organization-id"] == "org_a"
    frames = response.text.strip().split("\n\n")
    for frame in frames:
        name, data = frame.split("\n")
        assert name.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]


@requirement("messages:5")
async def test_parallel_calls_overlap_and_results_follow_their_uses(bench: Bench) -> None:
    bench.script([use("wiki_search", {"q": q}, f"toolu_{q}") for q in "ab"], [text("Both.")])
    bench.wiki.wait_for = 2
    message = await bench.create()
    assert types(message) == ["mcp_tool_use", "mcp_tool_use", "mcp_tool_result", "mcp_tool_result", "text"]
    assert [block.tool_use_id for block in message.content[2:4]] == [block.id for block in message.content[:2]]
    assert [block.content[0].text for block in message.content[2:4]] == ["found a", "found b"]
    assert bench.wiki.most_running == 2


@requirement("messages:6")
async def test_usage_sums_over_iterations_streamed_or_not(bench: Bench) -> None:
    one_call(bench)
    whole = await bench.create()
    assert [iteration.output_tokens for iteration in whole.usage.iterations] == [20, 20]
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (20, 40)
    one_call(bench)
    async with bench.client.beta.messages.stream(**bench.request()) as stream:
        streamed = await stream.get_final_message()
    assert streamed.usage == whole.usage


@requirement("messages:7")
async def test_keys_work_in_both_headers_and_scopes_count(bench: Bench) -> None:
    manager = principal("a", scopes=frozenset({"workspace:manage_tunnels"})).model_copy(update={"kind": "access_token"})
    bench.control.principals["manager"] = manager
    body = {"model": "stub", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
    status = {}
    async with httpx2.AsyncClient(headers={"anthropic-version": "2023-06-01"}) as http:
        for name, headers in {
            "x-api-key": {"x-api-key": KEY},
            "bearer": {"authorization": f"Bearer {KEY}"},
            "manager": {"authorization": "Bearer manager"},
            "unknown": {"x-api-key": "nobody"},
            "none": {},
        }.items():
            bench.script([text("Hello")])
            response = await http.post(f"{bench.gateway.url}/v1/messages", json=body, headers=headers)
            status[name] = (response.status_code, response.json().get("error", {}).get("type"))
    assert status == {
        "x-api-key": (200, None),
        "bearer": (200, None),
        "manager": (403, "permission_error"),
        "unknown": (401, "authentication_error"),
        "none": (401, "authentication_error"),
    }


@requirement("messages:8")
async def test_a_replayed_answer_gives_the_upstream_its_own_history_back(bench: Bench) -> None:
    one_call(bench)
    first = await bench.create("One")
    bench.script([text("Again.")])
    content = [block.model_dump(exclude_none=True) for block in first.content]
    await bench.create(
        [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": "Two"},
        ]
    )
    history = bench.model.bodies[0]["messages"]
    assert [message["role"] for message in history] == ["user", "assistant", "user", "assistant", "user"]
    assert history[1]["content"] == [use("wiki_search", {"q": "x"})]
    assert history[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_01abc", "content": [text("found x")]}
    ]


@requirement("messages:19", "messages:39")
async def test_a_mixed_turn_waits_for_the_client_and_goes_on_with_the_pending_results(bench: Bench) -> None:
    weather = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
    tools = [weather, bench.toolset()]
    bench.script([use("weather", {}, "toolu_w"), use("wiki_search", {"q": "x"}, "toolu_m")], [text("Done.")])
    first = await bench.create(tools=tools)
    assert (types(first), first.stop_reason) == (["tool_use", "mcp_tool_use"], "tool_use")
    assert bench.wiki.calls == []
    content = [block.model_dump(exclude_none=True) for block in first.content]
    answer = {"type": "tool_result", "tool_use_id": "toolu_w", "content": "sunny"}
    history = [
        {"role": "user", "content": "Question"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": [answer]},
    ]
    second = await bench.create(history, tools=tools)
    assert bench.wiki.calls == ["x"]
    assert types(second) == ["mcp_tool_result", "text"]
    upstream = bench.model.bodies[-1]["messages"]
    assert [message["role"] for message in upstream] == ["user", "assistant", "user"]
    assert [block["tool_use_id"] for block in upstream[2]["content"]] == ["toolu_w", "toolu_m"]


@requirement("messages:20")
async def test_a_pending_call_needs_its_toolset(bench: Bench) -> None:
    bench.script([text("never")])
    pending = {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "search", "server_name": "wiki", "input": {}}
    history = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": [pending]}]
    response = await post(bench, history, mcp_servers=None, tools=None)
    assert response.status_code == 400
    assert "no `search` tool was provided" in response.json()["error"]["message"]
    assert bench.model.bodies == []


async def post(bench: Bench, content: Any = "Question", *, version: str = "2023-06-01", **changes: Any) -> Any:
    """The raw HTTP answer."""
    body = bench.request(content, **changes)
    betas = body.pop("betas", [])
    headers = {"x-api-key": KEY, "anthropic-version": version}
    if betas:
        headers["anthropic-beta"] = ",".join(betas)
    async with httpx2.AsyncClient() as http:
        return await http.post(f"{bench.gateway.url}/v1/messages", json=body, headers=headers, timeout=30)


@requirement("messages:21")
async def test_a_model_that_never_stops_is_paused_and_can_be_resumed(bench: Bench) -> None:
    bench.script([use("wiki_search", {"q": "x"})])
    message = await bench.create()
    assert message.stop_reason == "pause_turn"
    assert types(message) == ["mcp_tool_use", "mcp_tool_result"] * 10
    assert len(bench.model.bodies) == 10
    content = [block.model_dump(exclude_none=True) for block in message.content]
    bench.script([text("At last.")])
    halves = [content[:10], content[10:]]  # the SDK's runner sends two assistant messages in a row
    history = [{"role": "user", "content": "Question"}, *({"role": "assistant", "content": half} for half in halves)]
    resumed = await bench.create(history)
    assert (types(resumed), resumed.stop_reason) == (["text"], "end_turn")


@requirement("messages:22")
async def test_the_token_budget_is_shared_by_all_iterations(bench: Bench) -> None:
    one_call(bench)
    bench.model.usage["output_tokens"] = 80
    await bench.create(max_tokens=100)
    assert [body["max_tokens"] for body in bench.model.bodies] == [100, 20]


@requirement("messages:22")
async def test_an_exhausted_budget_ends_the_response(bench: Bench) -> None:
    one_call(bench)
    bench.model.usage["output_tokens"] = 100
    message = await bench.create(max_tokens=100)
    assert (types(message), message.stop_reason) == (["mcp_tool_use", "mcp_tool_result"], "max_tokens")


@requirement("messages:22")
@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded", "refusal", "stop_sequence"])
async def test_a_call_that_a_stop_cut_off_is_dropped(bench: Bench, reason: str) -> None:
    bench.script([text("I search"), use("wiki_search", {"q": "x"})])
    bench.model.stop_reason = reason
    message = await bench.create()
    assert (types(message), message.stop_reason) == (["text"], reason)
    assert bench.wiki.calls == []


async def test_a_model_that_refuses_to_go_on_makes_no_call(bench: Bench) -> None:
    weather = {"name": "weather", "input_schema": {"type": "object"}}
    for rest in ([text("I will")], [use("weather", {}, "toolu_w")]):
        bench.script([use("wiki_search", {"q": "x"}), *rest])
        bench.model.stop_reason = "refusal"
        message = await bench.create(tools=[bench.toolset(), weather])
        assert (types(message)[0], types(message)[2]) == ("mcp_tool_use", "mcp_tool_result")
        assert message.content[2].is_error
        assert message.stop_reason == "refusal"
        assert bench.wiki.calls == []


@requirement("messages:27")
async def test_the_newest_version_refuses_sampling_parameters(bench: Bench) -> None:
    bench.script([text("Hi")])
    assert (await post(bench, temperature=0.5)).status_code == 200
    for name in ("temperature", "top_p", "top_k"):
        response = await post(bench, version="2026-10-21", **{name: 1})
        assert response.status_code == 400
        assert name in response.json()["error"]["message"]
    assert (await post(bench, version="2020-01-01")).status_code == 400


@requirement("messages:32")
async def test_cache_control_goes_to_the_last_enabled_tool(bench: Bench) -> None:
    bench.script([text("Hi")])
    pinned = [{"name": name, "input_schema": {"type": "object"}} for name in ("a", "b", "c")]
    toolset = bench.toolset(tools=pinned, cache_control={"type": "ephemeral"}, configs={"c": {"enabled": False}})
    await bench.create(tools=[toolset], betas=["mcp-client-2026-09-15"])
    sent = [(tool["name"], tool.get("cache_control")) for tool in bench.model.bodies[0]["tools"]]
    assert sent == [("wiki_a", None), ("wiki_b", {"type": "ephemeral"})]
