"""Conversations with an OpenAI-compatible server as the model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anthropic import APIStatusError, BadRequestError, NotFoundError, RateLimitError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.gateway.conftest import Bench
from tests.support.asgi import serve_asgi
from tests.support.chat import USAGE, Block, call, content, stop
from tests.support.gateway import running_gateway
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")


class ChatServer:
    """A chat-completions server that answers from a script."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.bodies: list[Block] = []
        self.cut = 1 << 20
        """Send pieces of at most this many bytes."""

    async def completions(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        reply = self.script.pop(0)
        return reply if isinstance(reply, Response) else StreamingResponse(self._stream(reply))

    async def _stream(self, chunks: Iterable[Block]) -> AsyncIterator[bytes]:
        frames = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
        data = "".join([*frames, "data: [DONE]\n\n"]).encode()
        for start in range(0, len(data), self.cut):
            yield data[start : start + self.cut]


@asynccontextmanager
async def local_model(bench: Bench) -> AsyncIterator[tuple[ChatServer, Any]]:
    """A scripted chat server, and a client of a gateway that offers it as `local`."""
    server = ChatServer()
    app = Starlette(routes=[Route("/v1/chat/completions", server.completions, methods=["POST"])])
    async with serve_asgi(app) as url:
        models = {"local": {"upstream": "openai", "base_url": f"{url}/v1", "model": "tiny"}}
        async with running_gateway(control=bench.control, models=models) as gateway:
            yield server, bench.client.with_options(base_url=gateway.url)


ONE_CALL = [call('{"q": "gr', "wiki_search", index=0, id="c1"), call('ün"}', index=0), stop("stop"), USAGE]
ANSWER = [content("Ge"), content("fünden."), stop("stop"), USAGE]


@requirement("messages:33", "messages:34")
async def test_the_loop_runs_on_a_local_model_however_its_stream_is_cut(bench: Bench) -> None:
    messages = []
    async with local_model(bench) as (server, client):
        for size in (1, 7, 1 << 20):
            bench.wiki.reset()
            server.cut = size
            server.script = [ONE_CALL, ANSWER]
            async with client.beta.messages.stream(**bench.request(model="local", system="Be brief.")) as stream:
                messages.append(await stream.get_final_message())
            assert bench.wiki.calls == ["grün"]
        history = server.bodies[-1]
    for message in messages:
        assert [block.type for block in message.content] == ["mcp_tool_use", "mcp_tool_result", "text"]
        assert message.content[2].text == "Gefünden."
        assert (message.usage.input_tokens, message.usage.output_tokens) == (22, 14)
        assert message.content[0].id.startswith("mcptoolu_01")
    assert [message["role"] for message in history["messages"]] == ["system", "user", "assistant", "tool"]
    assert history["model"] == "tiny"


@requirement("messages:33")
async def test_a_local_models_broken_arguments_are_told_to_it(bench: Bench) -> None:
    bench.wiki.reset()
    async with local_model(bench) as (server, client):
        server.script = [[call('{"q": ', "wiki_search", index=0), stop("tool_calls")], ANSWER]
        async with client.beta.messages.stream(**bench.request(model="local")) as stream:
            message = await stream.get_final_message()
    assert message.content[0].input == {}
    assert message.content[1].is_error
    assert "not a valid JSON object" in message.content[1].content[0].text
    assert bench.wiki.calls == []


async def test_an_answer_with_a_call_of_nothing_can_be_sent_back(bench: Bench) -> None:
    async with local_model(bench) as (server, client):
        server.script = [[call("{}", index=0, id="c1"), stop("tool_calls")], ANSWER, ANSWER]
        first = await client.beta.messages.create(**bench.request(model="local"))
        assert first.content[1].is_error
        said = [block.model_dump(exclude_none=True) for block in first.content]
        history = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": said}]
        history.append({"role": "user", "content": "And?"})
        again = await client.beta.messages.create(**bench.request(history, model="local"))
    assert again.stop_reason == "end_turn"


async def test_a_call_whose_stream_was_cut_is_not_made(bench: Bench) -> None:
    bench.wiki.reset()
    begun = json.dumps(call("", "wiki_search", index=0, id="c1"))
    async with local_model(bench) as (server, client):
        server.script = [Response(f"data: {begun}\n\n", media_type="text/event-stream"), ANSWER]
        with pytest.raises(APIStatusError, match="ended early"):
            await client.beta.messages.create(**bench.request(model="local"))
    assert bench.wiki.requests
    assert "tools/call" not in bench.wiki.methods


async def test_errors_of_a_local_model_have_their_equivalents(bench: Bench) -> None:
    expected: dict[int, type[APIStatusError]] = {400: BadRequestError, 404: NotFoundError, 429: RateLimitError}
    async with local_model(bench) as (server, client):
        for status, kind in expected.items():
            server.script = [JSONResponse({"error": {"message": "context length exceeded"}}, status)]
            with pytest.raises(kind):
                await client.beta.messages.create(**bench.request(model="local"))
        for status, seen in ((503, 529), (500, 500), (401, 500)):
            server.script = [JSONResponse({}, status)]
            with pytest.raises(APIStatusError) as caught:
                await client.beta.messages.create(**bench.request(model="local"))
            assert caught.value.status_code == seen
