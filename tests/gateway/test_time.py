"""Time limits, callers who leave while the model speaks, and tools that a model cannot search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import APIStatusError, BadRequestError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from qanat.gateway.demo_model import as_events
from qanat.gateway.sse import encode_event
from tests.gateway.conftest import Bench
from tests.support.gateway import running_gateway, text, use
from tests.support.mcp_stub import stub_mcp
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Hanging:
    """A model that says a few words and then nothing, and knows when nobody listens any more."""

    def __init__(self, events: int) -> None:
        self._count = events
        self.started, self.left = asyncio.Event(), asyncio.Event()

    def __call__(self, _: Request) -> Response:
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            for event in list(as_events("stub", [text("Once upon a time there was")], 1))[: self._count]:
                yield encode_event(event)
            self.started.set()
            await asyncio.Event().wait()
        finally:
            self.left.set()


@requirement("messages:29")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_takes_the_sampling_along(bench: Bench, stream: bool) -> None:
    model = Hanging(3)
    bench.script(model)

    async def converse() -> None:
        async for _ in await bench.create(stream=stream):
            pass

    conversation = asyncio.create_task(converse())
    await asyncio.wait_for(model.started.wait(), 20)
    conversation.cancel()
    await asyncio.gather(conversation, return_exceptions=True)
    await asyncio.wait_for(model.left.wait(), 20)


def being_answered(bench: Bench) -> float | None:
    return bench.gateway.metrics.registry.get_sample_value("qanat_gateway_active_requests")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_counts_as_active_until_it_is_answered_or_its_caller_leaves(bench: Bench, stream: bool) -> None:
    model = Hanging(3)
    bench.script(model, [text("Hi")])

    async def converse() -> None:
        async for _ in await bench.create(stream=stream):
            pass

    async with asyncio.timeout(20):
        conversation = asyncio.create_task(converse())
        await model.started.wait()
        assert being_answered(bench) == 1
        conversation.cancel()
        while being_answered(bench) != 0:  # noqa: ASYNC110 - a gauge tells nobody
            await asyncio.sleep(0.01)
        await asyncio.gather(conversation, return_exceptions=True)
        await bench.create(stream=False)
        while being_answered(bench) != 0:  # noqa: ASYNC110 - a gauge tells nobody
            await asyncio.sleep(0.01)


async def hurried(bench: Bench, limit: str = "300ms", **fields: Any) -> Any:
    """An answer under a limit of a moment."""
    async with running_gateway(bench.model.url, bench.control, limits={"request": limit}) as gateway:
        client = bench.client.with_options(base_url=gateway.url)
        return await client.beta.messages.create(**bench.request(**fields))


@pytest.mark.slow
async def test_time_that_runs_out_pauses_what_has_begun(bench: Bench) -> None:
    bench.script(Hanging(4))
    message = await hurried(bench)
    assert ([block.type for block in message.content], message.stop_reason) == (["text"], "pause_turn")
    async with stub_mcp() as stub:
        stub.on["tools/call"] = stub.hang
        bench.script([use("wiki_search", {})])
        servers = [{"type": "url", "url": stub.url, "name": "wiki"}]
        message = await hurried(bench, mcp_servers=servers)
        called, result = message.content
        assert (called.type, result.type, message.stop_reason) == ("mcp_tool_use", "mcp_tool_result", "pause_turn")
        assert result.is_error
        assert "may have run" in result.content[0].text
        calls = stub.methods.count("tools/call")
        bench.script([text("There.")])
        content = [block.model_dump(exclude_none=True) for block in message.content]
        history = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": content}]
        resumed = await bench.create(history, mcp_servers=servers)
        assert stub.methods.count("tools/call") == calls, "a call that may have run is not made again"
    assert [block.type for block in resumed.content] == ["text"]


@pytest.mark.slow
async def test_time_that_runs_out_keeps_the_results_that_have_arrived(bench: Bench) -> None:
    async with stub_mcp() as stub:
        stub.on["tools/call"] = stub.hang
        bench.script([use("slow_search", {}, "toolu_1"), use("wiki_search", {"q": "x"}, "toolu_2")])
        slow = {"type": "url", "url": stub.url, "name": "slow"}
        message = await hurried(
            bench, "2s", mcp_servers=[slow, bench.server()], tools=[bench.toolset("slow"), bench.toolset()]
        )
    results = [block for block in message.content if block.type == "mcp_tool_result"]
    assert [(result.tool_use_id, result.is_error) for result in results] == [
        ("mcptoolu_1", True), ("mcptoolu_2", False)
    ]  # fmt: skip
    assert results[1].content[0].text == "found x"


@pytest.mark.slow
async def test_a_server_that_lists_for_ever_cannot_outlast_the_request(bench: Bench) -> None:
    async with stub_mcp() as stub:
        stub.on["tools/list"] = stub.hang
        with pytest.raises(APIStatusError) as caught:
            await hurried(bench, mcp_servers=[{"type": "url", "url": stub.url, "name": "wiki"}])
    assert caught.value.status_code == 504


async def test_a_clients_call_that_was_cut_off_says_so_beside_an_mcp_call(bench: Bench) -> None:
    bench.script([use("wiki_search", {"q": "x"}, "toolu_1"), use("weather", {}, "toolu_2")])
    bench.model.stop_reason = "max_tokens"
    weather = {"name": "weather", "input_schema": {"type": "object"}}
    message = await bench.create(tools=[bench.toolset(), weather])
    assert message.stop_reason == "max_tokens"


@pytest.mark.slow
async def test_time_that_runs_out_before_anything_was_said_is_an_error(bench: Bench) -> None:
    bench.script(Hanging(0))
    with pytest.raises(APIStatusError) as caught:
        await hurried(bench)
    assert caught.value.status_code == 504


async def test_deferred_tools_are_out_of_reach_of_a_model_that_cannot_search(bench: Bench) -> None:
    bench.wiki.reset()
    local = {"name": "local", "input_schema": {"type": "object"}}
    tools = [bench.toolset(default_config={"defer_loading": True}), local]
    message = await bench.create("Search the wiki", model="qanat-demo", tools=tools)
    assert "mcp_tool_use" not in [block.type for block in message.content]
    search = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
    regex = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    with pytest.raises(BadRequestError, match="needs an Anthropic model; use tool_search_tool_bm25"):
        await bench.create("Search the wiki", model="qanat-demo", tools=[*tools, regex])
    with pytest.raises(BadRequestError, match="needs a name"):
        await bench.create("Search", model="qanat-demo", tools=[*tools, {"type": "tool_search_tool_bm25_20251119"}])
    bench.script([text("Hi")])
    await bench.create(tools=[*tools, search])
    assert bench.model.bodies[0]["tools"][0]["defer_loading"] is True
    assert bench.model.bodies[0]["tools"][2] == search
