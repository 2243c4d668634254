"""MCP servers that do one thing badly: what they do well goes on being of use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types
import pytest
from anthropic import BadRequestError
from starlette.responses import Response, StreamingResponse

from qanat.gateway.config import Limits
from qanat.gateway.mcp_link import Link
from tests.gateway.conftest import Bench
from tests.support.gateway import running_gateway, text, use
from tests.support.mcp_sse import sse_stub
from tests.support.mcp_stub import SEARCH, Block, cut, stub_mcp
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


async def test_a_list_that_is_read_late_is_bounded_by_itself(bench: Bench) -> None:
    async def page(parameters: Block) -> Block:
        return {"tools": [SEARCH]} | ({} if "cursor" in parameters else {"nextCursor": "2"})

    async def call(parameters: Block) -> Block:
        if "tools/list" not in stub.methods and parameters["arguments"]["q"] == "late":
            return {"code": mcp_types.HEADER_MISMATCH, "message": "which headers?"}
        return {"content": [text("x" * 40_000)]}

    bench.script(calls("a"), calls("b"), calls("late"), [text("Fine.")])
    pinned = [bench.toolset(tools=[{"name": "search", "input_schema": {"type": "object"}}])]
    async with (
        stub_mcp(on={"tools/list": page, "tools/call": call}) as stub,
        running_gateway(bench.model.url, bench.control, limits={"response_bytes": 50_000}) as gateway,
    ):
        client = bench.client.with_options(base_url=gateway.url)
        fields = bench.request(**at(stub.url), tools=pinned, betas=["mcp-client-2026-09-15"])
        message = await client.beta.messages.create(**fields)
    assert [failed for failed, _ in results(message)] == [False, False, False]


async def large(_: Block) -> Block:
    return {"content": [text("x" * 9_000_000)]}


@requirement("messages:16")
@pytest.mark.parametrize("bad", [cut, large])
async def test_a_call_that_breaks_off_takes_no_other_call_along(bench: Bench, bad: Any) -> None:
    def failed() -> float:
        labels = {"host": "127.0.0.1", "outcome": "error"}
        return bench.gateway.metrics.registry.get_sample_value("qanat_gateway_tool_calls_total", labels) or 0

    async def call(parameters: Block) -> Any:
        if parameters["arguments"]["q"] == "bad":
            return await bad(parameters)
        while failed() == before:  # noqa: ASYNC110 - a counter tells nobody
            await asyncio.sleep(0.01)
        return await found(parameters)

    before = failed()
    bench.script(calls("bad", "good"), calls("later"), [text("Fine.")])
    async with asyncio.timeout(20), stub_mcp(on={"tools/call": call}, session_id="s-1") as stub:
        message = await bench.create(**at(stub.url))
        assert stub.methods.count("initialize") == 1
    assert results(message) == [LOST, (False, "found good"), (False, "found later")]


@pytest.mark.parametrize("query", ["half a pair: \ud83d", float("nan")])
async def test_arguments_that_cannot_be_sent_end_no_session(bench: Bench, query: Any) -> None:
    bench.script(calls(query, "good"), [text("Fine.")])
    async with stub_mcp(on={"tools/call": found}, session_id="s-1") as stub:
        message = await bench.create(**at(stub.url))
        assert stub.methods.count("tools/call") == 1
    (failed, words), good = results(message)
    assert failed
    assert "was not called" in words
    assert good == (False, "found good")


def flood(message: str, count: int) -> Any:
    """A handler of a call whose answer comes after very many other messages."""

    async def call(_: Block) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield f"data: {message}\n\n".encode() * count
            await asyncio.Event().wait()

        return StreamingResponse(body(), media_type="text/event-stream")

    return call


async def test_a_server_that_asks_without_end_is_let_go_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.gateway.inbox.MAX_QUESTIONS", 20)
    ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}'
    bench.script(calls("x"), [text("Fine.")])
    async with asyncio.timeout(20), stub_mcp(on={"tools/call": flood(ping, 21)}) as stub:
        message = await bench.create(**at(stub.url))
    assert results(message) == [LOST]


async def test_what_a_server_notifies_of_is_not_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    notice = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"canary-51c","data":"canary-51c"}}'

    async def call(_: Block) -> Response:
        answer = '{"jsonrpc":"2.0","id":3,"result":{"content":[]}}'
        return Response(f"data: {notice}\n\ndata: {answer}\n\n", media_type="text/event-stream")

    bench.script(calls("x"), [text("Fine.")])
    async with stub_mcp(on={"tools/call": call}) as stub:
        message = await bench.create(**at(stub.url))
    assert results(message) == [(False, "")]
    assert "canary-51c" not in caplog.text


@requirement("messages:16", "messages:18")
@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"structuredContent": {"n": 1}}, '{"n":1}'),
        ({"content": [], "structuredContent": [1]}, "[1]"),
        ({}, ""),
        ({"content": [text("a"), {"type": "video"}, text("b")]}, "a[video content]b"),
        ({"content": [{"type": "image", "data": "AAAA"}, text("b")]}, "[image , 3 bytes]b"),
        ({"content": [{"type": "text", "text": None}, "x", text("b")]}, "[unreadable content]" * 2 + "b"),
        ({"content": [text("a")], "structuredContent": [1], "_meta": 1}, "a"),
    ],
)
async def test_what_can_be_read_of_a_result_is_a_result(bench: Bench, returned: Block, said: str) -> None:
    async def call(_: Block) -> Block:
        return returned

    bench.script(calls("x"), [text("Fine.")])
    async with stub_mcp(on={"tools/call": call}) as stub:
        message = await bench.create(**at(stub.url))
    assert results(message) == [(False, said)]


async def test_a_text_that_was_cut_inside_an_emoji_is_still_a_result(bench: Bench) -> None:
    async def call(_: Block) -> Response:
        answer = b'{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"\\ud83d\\ude00 cut \\ud83d"}]}}'

        async def pieces() -> AsyncIterator[bytes]:
            frame = b"data: %s\n\n" % answer
            for start in range(0, len(frame), 7):
                yield frame[start : start + 7]

        return StreamingResponse(pieces(), media_type="text/event-stream")

    bench.script(calls("x"), [text("Fine.")])
    async with stub_mcp(on={"tools/call": call}) as stub:
        message = await bench.create(**at(stub.url))
    assert results(message) == [(False, "\U0001f600 cut \ufffd")]


async def test_a_result_of_very_many_parts_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(_: Block) -> Block:
        return {"content": [text("a")] * 10}

    monkeypatch.setattr("qanat.gateway.inbox.MAX_ITEMS", 3)
    bench.script(calls("x"), [text("Fine.")])
    async with stub_mcp(on={"tools/call": call}) as stub:
        message = await bench.create(**at(stub.url))
    assert results(message) == [(False, "aaa[result cut: more than 3 parts]")]


async def test_of_very_many_tools_in_a_page_the_first_are_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qanat.gateway.inbox.MAX_ITEMS", 3)
    bench.script([text("Hi")])
    async with stub_mcp(tools=[{**SEARCH, "name": name} for name in "abcde"]) as stub:
        await bench.create(**at(stub.url))
    assert [tool["name"] for tool in bench.model.bodies[0]["tools"]] == ["wiki_a", "wiki_b", "wiki_c"]
    assert "tools of an mcp server left out" in caplog.text


# Servers of the HTTP+SSE transport: one stream carries every answer.


@requirement("messages:14")
async def test_an_sse_session_whose_stream_ended_is_begun_anew_for_the_next_call(bench: Bench) -> None:
    async def call(parameters: Block) -> Block | None:
        return None if parameters["arguments"]["q"] == "end" else await found(parameters)

    bench.script(calls("end"), calls("again"), [text("Fine.")])
    async with sse_stub(call) as stub:
        message = await bench.create(**at(stub.url))
        assert stub.methods.count("initialize") == 2
    assert results(message) == [LOST, (False, "found again")]


@requirement("messages:14")
async def test_a_message_that_an_sse_server_refuses_is_not_waited_for(bench: Bench) -> None:
    async def call(parameters: Block) -> Block | Response:
        return Response(status_code=500) if parameters["arguments"]["q"] == "bad" else await found(parameters)

    bench.script(calls("bad"), calls("again"), [text("Fine.")])
    async with asyncio.timeout(20), sse_stub(call) as stub:
        message = await bench.create(**at(stub.url))
    assert results(message) == [LOST, (False, "found again")]


@requirement("messages:12")
async def test_an_sse_server_that_refuses_the_credentials_is_named(bench: Bench) -> None:
    bench.script([text("never")])
    async with sse_stub(found, stream_status=401) as stub:
        with pytest.raises(BadRequestError, match="Authentication error while communicating with MCP server"):
            await bench.create(**at(stub.url))


class Renewing(httpx2.Auth):
    """Tries once more with another token, as the credentials of a vault do."""

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        if (yield request).status_code == 401:
            yield request


@requirement("messages:14")
async def test_a_token_that_is_renewed_ends_no_sse_session() -> None:
    refusals = [Response(status_code=401)]

    async def call(parameters: Block) -> Block | Response:
        return refusals.pop() if refusals else await found(parameters)

    @asynccontextmanager
    async def source() -> AsyncIterator[httpx2.AsyncBaseTransport]:
        async with httpx2.AsyncHTTPTransport() as transport:
            yield transport

    async with asyncio.timeout(20), sse_stub(call) as stub:
        link = Link(stub.url, Renewing(), source, Limits())
        await link.open()
        result = await link.call("search", {"q": "x"})
        await link.close()
    assert result.wire == (text("found x"),)


async def test_the_answers_of_an_sse_session_are_bounded_one_by_one(bench: Bench) -> None:
    bench.script(calls("x" * 40_000), calls("y" * 40_000), [text("Fine.")])
    async with (
        sse_stub(found) as stub,
        running_gateway(bench.model.url, bench.control, limits={"response_bytes": 50_000}) as gateway,
    ):
        client = bench.client.with_options(base_url=gateway.url)
        message = await client.beta.messages.create(**bench.request(**at(stub.url)))
        assert stub.methods.count("initialize") == 1
    assert [failed for failed, _ in results(message)] == [False, False]
