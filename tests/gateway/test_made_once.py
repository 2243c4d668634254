"""Calls have effects: none is made twice, with other arguments than the model's, or for nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import APIStatusError, AsyncAnthropic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qanat.gateway import goodbyes, mcp_link
from tests.support.asgi import serve_asgi
from tests.support.chat import USAGE, call, content, stop
from tests.support.gateway import KEY, Reply, running_gateway, scripted_model, text, use
from tests.support.mcp_stub import SEARCH, stub_mcp

QUESTION = {"role": "user", "content": "Q"}
MINE = {"name": "weather", "input_schema": {"type": "object"}}


def asked(url: str, *tools: dict[str, Any], messages: list[Any] | None = None) -> dict[str, Any]:
    return {
        "model": "stub",
        "max_tokens": 1000,
        "messages": messages or [QUESTION],
        "mcp_servers": [{"type": "url", "url": url, "name": "wiki"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}, *tools],
        "betas": ["mcp-client-2025-11-20"],
    }


def overloaded(_: object) -> Response:
    return JSONResponse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529)


def nonsense(_: object) -> Response:
    return Response('data: {"type": "content_block_start"}\n\n', media_type="text/event-stream")


@pytest.mark.parametrize(("failure", "status"), [(overloaded, 529), (nonsense, 500)])
async def test_an_sdk_does_not_repeat_a_request_whose_tools_have_run(failure: Reply, status: int) -> None:
    made = [use("wiki_search")]
    async with (
        stub_mcp() as mcp,
        scripted_model(made, failure, made, failure, made, failure) as model,
        running_gateway(model.url) as gateway,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY) as client,
    ):
        with pytest.raises(APIStatusError) as refused:
            await client.beta.messages.create(**asked(mcp.url))
        assert refused.value.status_code == status
        assert mcp.methods.count("tools/call") == 1


@pytest.mark.parametrize(
    ("name", "arguments"), [("wiki_delete_pages", '{"only_older_than": "2020'), ("wiki_lookup", "{}")]
)
async def test_a_call_that_cannot_be_made_is_answered_at_once_beside_a_call_for_the_caller(
    name: str, arguments: str
) -> None:
    answers = [
        [call("{}", "weather", index=0, id="a"), call(arguments, name, index=1, id="b"), stop("tool_calls"), USAGE],
        [content("done"), stop("stop"), USAGE],
    ]

    async def completions(_: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for chunk in answers.pop(0):
                yield f"data: {json.dumps(chunk)}\n\n".encode()
            yield b"data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    routes = [Route("/v1/chat/completions", completions, methods=["POST"])]
    async with (
        serve_asgi(Starlette(routes=routes)) as url,
        stub_mcp(tools=[{"name": "delete_pages", "inputSchema": {"type": "object"}}]) as mcp,
        running_gateway(models={"stub": {"upstream": "openai", "base_url": f"{url}/v1"}}) as gateway,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client,
    ):
        first = await client.beta.messages.create(**asked(mcp.url, MINE))
        assert [block.type for block in first.content] == ["tool_use", "mcp_tool_use", "mcp_tool_result"]
        result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "sunny"}
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]}
        messages = [QUESTION, said, {"role": "user", "content": [result]}]
        second = await client.beta.messages.create(**asked(mcp.url, MINE, messages=messages))
        assert second.stop_reason == "end_turn"
        assert "tools/call" not in mcp.methods


async def test_a_tool_that_fails_without_a_word_is_told_to_the_model_in_words() -> None:
    async def fail(_: object) -> dict[str, Any]:
        return {"content": [], "isError": True}

    async with (
        stub_mcp(on={"tools/call": fail}) as mcp,
        scripted_model([use("wiki_search")], [text("it failed")]) as model,
        running_gateway(model.url) as gateway,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client,
    ):
        answer = await client.beta.messages.create(**asked(mcp.url))
        assert answer.stop_reason == "end_turn"
        (result,) = model.bodies[-1]["messages"][-1]["content"]
        assert result["is_error"]
        assert result["content"]


class Wedged:
    """An MCP server that shakes hands and lists; whatever comes then is read and never answered."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "s", "version": "1"},
        }
        results = {"initialize": hello, "tools/list": {"tools": [SEARCH]}}
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
                message = json.loads(await reader.readexactly(size)) if size else {"method": "DELETE"}
                if message["method"] in ("tools/call", "notifications/cancelled", "DELETE"):
                    self.called.set()
                    await reader.read()
                    return
                body = b""
                if "id" in message:
                    error = {"error": {"code": -32601, "message": "no"}}
                    known = message["method"] in results
                    answer = {"result": results[message["method"]]} if known else error
                    body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}).encode()
                fields = f"content-type: application/json\r\nmcp-session-id: s\r\ncontent-length: {len(body)}"
                writer.write(f"HTTP/1.1 {200 if body else 202} OK\r\n{fields}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.mark.timeout(60)
async def test_a_gateway_that_stops_waits_for_no_wedged_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_link, "GOODBYE", 3600.0)
    monkeypatch.setattr(mcp_link, "NOTICE", 0.01)
    monkeypatch.setattr(goodbyes, "LAST_WORDS", 0.01)
    wedged = Wedged()
    server = await asyncio.start_server(wedged.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    calls = [use("wiki_search", id=f"toolu_{number}") for number in range(3)]
    async with (
        scripted_model(calls) as model,
        running_gateway(model.url, shutdown_timeout="0s") as gateway,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client,
    ):
        waiting = asyncio.create_task(client.beta.messages.create(**asked(url)))
        await wedged.called.wait()
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    server.close()
