"""MCP servers that work, fail, hang, page, redirect and lie."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
from typing import Any

import httpx2
import pytest
from anthropic import BadRequestError
from anthropic.types.beta import BetaTextBlock
from mcp.server.mcpserver import MCPServer
from starlette.responses import Response

from qanat.gateway.mcp_link import Observed
from tests.gateway.conftest import Bench
from tests.support.answers import error_of
from tests.support.asgi import serve_asgi
from tests.support.gateway import running_gateway, text, use
from tests.support.mcp_stub import Block, StubMCP, cut, stub_mcp
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECTION = (
    "mcp_servers[0] 'wiki': Connection error while communicating with MCP server. "
    "The server may be unavailable or unresponsive."
)


def at(url: str, **extra: Any) -> dict[str, Any]:
    return {"mcp_servers": [{"type": "url", "url": url, "name": "wiki", **extra}]}


def script_one_call(bench: Bench) -> None:
    bench.script([use("wiki_search", {"q": "x"})], [text("Fine.")])


async def refused(bench: Bench, url: str) -> str:
    """The message of the 400, the same whether streamed or not."""
    messages = set()
    for stream in (False, True):
        with pytest.raises(BadRequestError) as caught:
            await bench.create(**at(url), stream=stream)
        assert caught.value.response.headers["content-type"] == "application/json"
        messages.add(error_of(caught.value)["message"])
    assert bench.model.bodies == []
    return str(messages.pop())


@requirement("messages:12")
async def test_a_server_that_refuses_the_credentials_is_named(bench: Bench) -> None:
    bench.script([text("never")])
    for status in (401, 403):
        async with stub_mcp(status=status) as stub:
            message = await refused(bench, stub.url)
        assert message == (
            "mcp_servers[0] 'wiki': Authentication error while communicating with MCP server. "
            "Please check your authorization token."
        )


@requirement("messages:12")
async def test_a_server_that_cannot_be_reached_is_a_connection_error(bench: Bench) -> None:
    bench.script([text("never")])
    assert await refused(bench, "http://127.0.0.1:9/mcp") == CONNECTION
    assert await refused(bench, f"https://{bench.wiki.url.removeprefix('http://')}") == CONNECTION
    async with stub_mcp(status=500) as stub:
        message = await refused(bench, stub.url)
    assert message.startswith("mcp_servers[0] 'wiki': Connection error while communicating with MCP server: ")


@requirement("messages:13")
async def test_the_token_reaches_its_server_and_nothing_else(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    token = "canary-7f3a"
    caplog.set_level(logging.DEBUG)
    async with stub_mcp() as stub:
        script_one_call(bench)
        await bench.create(**at(stub.url, authorization_token=token))
        assert {headers["authorization"] for headers in stub.headers} == {f"Bearer {token}"}
        assert not any("x-api-key" in headers or "cookie" in headers for headers in stub.headers)
    assert all(token not in str(dict(headers)) for headers in bench.model.headers)
    assert all(token.encode() not in body for body in bench.model.raw)
    async with stub_mcp(status=401) as stub:
        with pytest.raises(BadRequestError) as caught:
            await bench.create(**at(stub.url, authorization_token=token))
    assert token not in str(caught.value.body)
    ours = [record for record in caplog.records if record.name.startswith(("qanat", "mcp", "httpx"))]
    assert ours
    assert all(token not in f"{record.getMessage()} {vars(record)}" for record in ours)


@requirement("messages:14")
async def test_a_server_that_only_speaks_sse_works(bench: Bench) -> None:
    server = MCPServer("old")

    @server.tool()
    def search(q: str) -> str:
        return f"old {q}"

    async with serve_asgi(server.sse_app()) as url:
        script_one_call(bench)
        message = await bench.create(**at(f"{url}/sse"))
    assert message.content[1].content[0].text == "old x"


@requirement("messages:14")
async def test_a_redirecting_server_is_refused(bench: Bench) -> None:
    bench.script([text("never")])
    async with stub_mcp(status=307) as stub:
        assert "Connection error" in await refused(bench, stub.url)
        assert set(stub.http_methods) == {"POST"}


class Compressing(httpx2.AsyncBaseTransport):
    """Answers with few bytes that would become many."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        packed = gzip.compress(b" " * 1_000_000)
        return httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=httpx2.ByteStream(packed))


async def test_a_compressed_answer_is_not_unpacked() -> None:
    observed = Observed(Compressing(), max_bytes=10_000)
    async with httpx2.AsyncClient(transport=observed) as http:
        answer = await http.post("https://wiki.example/mcp")
    assert (answer.status_code, answer.text) == (502, "compressed answers are refused")


@requirement("messages:15")
async def test_every_page_of_a_tool_list_is_fetched_and_unusable_tools_are_dropped(bench: Bench) -> None:
    async def page(parameters: Block) -> Block:
        number = int(parameters.get("cursor") or 0)
        tools = [{"name": f"t{number}", "inputSchema": {"type": "object"}}]
        return {"tools": tools} | ({"nextCursor": str(number + 1)} if number < 2 else {})

    bench.script([text("Hi")])
    async with stub_mcp(on={"tools/list": page}) as stub:
        await bench.create(**at(stub.url))
    assert [tool["name"] for tool in bench.model.bodies[0]["tools"]] == ["wiki_t0", "wiki_t1", "wiki_t2"]


async def outcome(bench: Bench, stub: StubMCP, client: Any = None, **changes: Any) -> tuple[bool, str]:
    """Whether the one call failed, and what its result says; the loop went on either way."""
    script_one_call(bench)
    fields = bench.request(**{**at(stub.url), **changes})
    message = await (client or bench.client).beta.messages.create(**fields)
    assert [block.type for block in message.content] == ["mcp_tool_use", "mcp_tool_result", "text"]
    assert message.stop_reason == "end_turn"
    result = message.content[1]
    assert all(isinstance(block, BetaTextBlock) for block in result.content)
    return result.is_error, "".join(block.text for block in result.content)


@requirement("messages:16")
@pytest.mark.slow
async def test_a_tool_that_fails_in_any_way_is_an_error_result(bench: Bench) -> None:
    async def is_error(_: Block) -> Block:
        return {"content": [{"type": "text", "text": "disk full"}], "isError": True}

    async def json_rpc_error(_: Block) -> Block:
        return {"code": -32000, "message": "boom"}

    async def nonsense(_: Block) -> Block:
        return {"content": "not a list"}

    async def denied(_: Block) -> Any:
        from starlette.responses import Response

        return Response(status_code=401)

    for handler, said in (
        (is_error, "disk full"),
        (json_rpc_error, "boom"),
        (nonsense, "makes no sense"),
        (cut, "lost"),
        (denied, "refused the authorization token"),
    ):
        async with stub_mcp(on={"tools/call": handler}) as stub:
            failed, words = await outcome(bench, stub)
        assert failed
        assert said in words


@pytest.mark.slow
@requirement("messages:16")
async def test_a_tool_that_takes_too_long_is_an_error_result(bench: Bench) -> None:
    limits = {"tool_call": "300ms", "connect": "5s"}
    async with running_gateway(bench.model.url, bench.control, limits=limits) as gateway, stub_mcp() as stub:
        stub.on["tools/call"] = stub.hang
        failed, words = await outcome(bench, stub, bench.client.with_options(base_url=gateway.url))
    assert (failed, words) == (True, "The tool call timed out.")


async def test_a_tool_the_model_made_up_is_an_error_result_and_no_call(bench: Bench) -> None:
    bench.script([use("wiki_destroy", {})], [text("Fine.")])
    message = await bench.create()
    assert (message.content[0].server_name, message.content[0].name) == ("wiki", "destroy")
    assert message.content[1].is_error
    assert bench.wiki.calls == []


@requirement("messages:17")
async def test_an_image_is_text_for_the_caller_and_an_image_for_the_model(bench: Bench) -> None:
    data = base64.b64encode(b"\x89PNG....").decode()

    async def picture(_: Block) -> Block:
        image = {"type": "image", "mimeType": "image/png", "data": data}
        return {"content": [{"type": "text", "text": "look"}, image]}

    async with stub_mcp(on={"tools/call": picture}) as stub:
        failed, words = await outcome(bench, stub)
    assert (failed, words) == (False, "look[image image/png, 8 bytes]")
    sent = bench.model.bodies[1]["messages"][-1]["content"][0]["content"]
    assert [block["type"] for block in sent] == ["text", "image"]


@requirement("messages:18")
async def test_structured_content_alone_becomes_json_and_nothing_an_empty_list(bench: Bench) -> None:
    async def structured(_: Block) -> Block:
        return {"content": [], "structuredContent": {"n": 1}}

    async def nothing(_: Block) -> Block:
        return {"content": []}

    async with stub_mcp(on={"tools/call": structured}) as stub:
        assert await outcome(bench, stub) == (False, '{"n":1}')
    async with stub_mcp(on={"tools/call": nothing}) as stub:
        script_one_call(bench)
        message = await bench.create(**at(stub.url))
        assert message.content[1].content == []
    assert bench.model.bodies[1]["messages"][-1]["content"][0]["content"] == ""


@requirement("messages:23")
async def test_listings_are_shown_once_and_pin_the_tools(bench: Bench) -> None:
    beta = ["mcp-client-2026-09-15"]
    async with stub_mcp() as stub:
        script_one_call(bench)
        first = await bench.create(**at(stub.url), betas=beta)
        assert [block.type for block in first.content][:2] == ["mcp_tool_listing", "mcp_tool_use"]
        assert type(first.content[0]).__name__ == "BetaMCPToolListingBlock"
        assert first.content[0].tools[0].name == "search"
        script_one_call(bench)
        async with bench.client.beta.messages.stream(**bench.request(**at(stub.url), betas=beta)) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[0] == first.content[0]
        stub.methods.clear()
        bench.script([text("Again.")])
        content = [block.model_dump(exclude_none=True) for block in first.content]
        history = [{"role": "user", "content": "1"}, {"role": "assistant", "content": content}]
        history.append({"role": "user", "content": "2"})
        second = await bench.create(history, **at(stub.url), betas=beta)
        assert [block.type for block in second.content] == ["text"]
        pinned = [{"name": "mine", "input_schema": {"type": "object"}}]
        await bench.create(**at(stub.url), betas=beta, tools=[bench.toolset(tools=pinned)])
        assert bench.model.bodies[-1]["tools"][0]["name"] == "wiki_mine"
        assert "tools/list" not in stub.methods
        script_one_call(bench)
        assert "mcp_tool_listing" not in str(await bench.create(**at(stub.url)))


async def test_a_pinned_tool_that_is_gone_is_an_error_result(bench: Bench) -> None:
    async def unknown(_: Block) -> Block:
        return {"code": -32602, "message": "Unknown tool: search"}

    pinned = [{"name": "search", "input_schema": {"type": "object"}}]
    tools = [bench.toolset(tools=pinned)]
    async with stub_mcp(tools=[], on={"tools/call": unknown}) as stub:
        failed, words = await outcome(bench, stub, tools=tools, betas=["mcp-client-2026-09-15"])
    assert failed
    assert "Unknown tool" in words


@requirement("messages:24")
async def test_the_deprecated_shape_works_and_a_disabled_server_is_not_contacted(bench: Bench) -> None:
    deprecated = {"tools": None, "betas": ["mcp-client-2025-04-04"]}
    async with stub_mcp(tools=[{**tool, "name": name} for name in "ab" for tool in StubMCP().tools]) as stub:
        bench.script([text("Hi")])
        await bench.create(**at(stub.url, tool_configuration={"allowed_tools": ["b"]}), **deprecated)
        assert [tool["name"] for tool in bench.model.bodies[0]["tools"]] == ["wiki_b"]
        stub.methods.clear()
        await bench.create(**at(stub.url, tool_configuration={"enabled": False}), **deprecated)
        assert stub.methods == []


async def test_sessions_are_ended_and_nothing_but_tools_is_asked_for(bench: Bench) -> None:
    async with stub_mcp(session_id="s-1") as stub:
        await outcome(bench, stub)
        await asyncio.wait_for(stub.ended.wait(), 20)
        assert stub.http_methods[-1] == "DELETE"
        assert set(stub.methods) <= {
            *("server/discover", "initialize", "notifications/initialized", "tools/list", "tools/call"),
        }


async def test_an_answer_does_not_wait_for_a_server_that_will_not_end_its_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qanat.gateway.mcp_link.GOODBYE", 3600)
    agree = asyncio.Event()

    async def hesitate(_: Block) -> Block:
        await agree.wait()
        return {}

    async with (
        stub_mcp(session_id="s-1", on={"DELETE": hesitate}) as stub,
        running_gateway(bench.model.url, bench.control) as gateway,
    ):
        client = bench.client.with_options(base_url=gateway.url)
        async with asyncio.timeout(20):
            script_one_call(bench)
            await client.beta.messages.create(**bench.request(**at(stub.url)))
            await stub.ended.wait()
            stub.ended.clear()
            script_one_call(bench)
            streamed = await client.beta.messages.create(**bench.request(**at(stub.url)), stream=True)
            assert [event.type async for event in streamed][-1] == "message_stop"
            await stub.ended.wait()
        agree.set()


@requirement("messages:29")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.slow
async def test_a_caller_who_leaves_takes_the_tool_call_along(bench: Bench, stream: bool) -> None:
    async with stub_mcp() as stub:
        stub.on["tools/call"] = stub.hang
        script_one_call(bench)

        async def converse() -> None:
            answer = await bench.create(**at(stub.url), stream=stream)
            async for _ in answer:
                pass

        conversation = asyncio.create_task(converse())
        await asyncio.wait_for(stub.called.wait(), 20)
        conversation.cancel()
        await asyncio.gather(conversation, return_exceptions=True)
        await asyncio.wait_for(stub.cancelled.wait(), 20)
    assert len(bench.model.bodies) == 1


@pytest.mark.slow
@requirement("messages:30")
async def test_pings_bridge_a_long_tool_call(bench: Bench) -> None:
    async with running_gateway(bench.model.url, bench.control, ping_interval="50ms") as gateway, stub_mcp() as stub:
        release = asyncio.Event()

        async def slow(_: Block) -> Block:
            await release.wait()
            return {"content": []}

        stub.on["tools/call"] = slow
        script_one_call(bench)
        client = bench.client.with_options(base_url=gateway.url)
        pings = 0
        async with client.beta.messages.with_streaming_response.create(
            **bench.request(**at(stub.url)), stream=True
        ) as response:
            async for line in response.iter_lines():
                pings += line == "event: ping"
                if pings == 2:
                    release.set()
    assert pings >= 2


@requirement("messages:10")
async def test_an_unknown_name_in_configs_is_a_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.script([text("Hi")])
    await bench.create(tools=[bench.toolset(configs={"nope": {"enabled": True}})])
    assert "configured tool does not exist" in caplog.text


@requirement("messages:9")
async def test_a_malformed_request_reaches_no_server(bench: Bench) -> None:
    bench.script([text("never")])
    with pytest.raises(BadRequestError, match="not referenced by any mcp_toolset"):
        await bench.create(tools=[])
    assert bench.wiki.requests == []


async def test_tool_lists_are_cached_for_one_caller_and_token(bench: Bench) -> None:
    async with running_gateway(bench.model.url, bench.control, tool_cache="60s") as gateway, stub_mcp() as stub:
        client = bench.client.with_options(base_url=gateway.url)
        bench.script([text("Hi")])
        for token in (None, None, "other"):
            await client.beta.messages.create(**bench.request(**at(stub.url, authorization_token=token)))
        assert stub.methods.count("tools/list") == 2


async def test_an_error_after_a_lost_connection_is_told_as_what_it_is(bench: Bench) -> None:
    async def boom(_: Block) -> Block:
        return {"code": -32000, "message": "boom"}

    async def lose(_: Block) -> Response:
        stub.on["tools/call"] = boom
        return await cut({})

    async with stub_mcp(on={"tools/call": lose}) as stub:
        bench.script(
            [use("wiki_search", {}, "toolu_1")], [use("wiki_search", {}, "toolu_2")], [text("Fine.")]
        )  # fmt: skip
        message = await bench.create(**at(stub.url))
    words = [block.content[0].text for block in message.content if block.type == "mcp_tool_result"]
    assert "lost" in words[0]
    assert "boom" in words[1]


async def test_a_session_that_the_server_forgot_is_begun_anew_for_the_next_call(bench: Bench) -> None:
    async with stub_mcp(session_id="s-1") as stub:

        async def forget(_: Block) -> Response:
            del stub.on["tools/call"]
            return Response(status_code=404)

        stub.on["tools/call"] = forget
        bench.script(
            [use("wiki_search", {}, "toolu_1")], [use("wiki_search", {}, "toolu_2")], [text("Fine.")]
        )  # fmt: skip
        message = await bench.create(**at(stub.url))
        results = [block for block in message.content if block.type == "mcp_tool_result"]
        assert [result.is_error for result in results] == [True, False]
        assert stub.methods.count("initialize") == 2


async def test_a_list_of_tools_without_end_is_refused(bench: Bench) -> None:
    async def page(_: Block) -> Block:
        long = {"name": "t", "description": "x" * 20_000, "inputSchema": {"type": "object"}}
        return {"tools": [long], "nextCursor": "more"}

    async with (
        stub_mcp(on={"tools/list": page}) as stub,
        running_gateway(bench.model.url, bench.control, limits={"response_bytes": 50_000}) as gateway,
    ):
        client = bench.client.with_options(base_url=gateway.url)
        with pytest.raises(BadRequestError, match="list of tools is too large"):
            await client.beta.messages.create(**bench.request(**at(stub.url)))
        assert stub.methods.count("tools/list") == 3
