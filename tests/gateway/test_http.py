"""The HTTP surface: models, counting, sizes, unknown paths, and what may be dialled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import pytest
from anthropic import APIStatusError, BadRequestError, NotFoundError, OverloadedError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qanat.gateway.demo_model import as_events
from qanat.gateway.sse import encode_event
from tests.gateway.conftest import Bench
from tests.support.answers import error_of
from tests.support.asgi import serve_asgi
from tests.support.gateway import KEY, running_gateway, text, use
from tests.support.requirements import requirement

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}


@requirement("messages:35")
async def test_models_can_be_listed_and_retrieved(bench: Bench) -> None:
    assert [model.id async for model in bench.client.models.list(limit=1)] == ["qanat-demo", "stub"]
    assert (await bench.client.models.retrieve("stub")).display_name == "stub"
    with pytest.raises(NotFoundError):
        await bench.client.models.retrieve("nope")
    with pytest.raises(NotFoundError):
        await bench.create(model="nope")
    backwards = await bench.client.models.list(before_id="stub")
    assert [model.id for model in backwards.data] == ["qanat-demo"]


@requirement("messages:35")
async def test_counting_includes_mcp_tools(bench: Bench) -> None:
    bench.script([text("unused")])
    messages: Any = [{"role": "user", "content": "Hi"}]
    for model in ("stub", "qanat-demo"):
        plain = await bench.client.beta.messages.count_tokens(model=model, messages=messages)
        tools = await bench.client.beta.messages.count_tokens(
            model=model,
            messages=messages,
            mcp_servers=cast(Any, [bench.server()]),
            tools=cast(Any, [bench.toolset()]),
            betas=["mcp-client-2025-11-20"],
        )
        assert tools.input_tokens > plain.input_tokens


@requirement("messages:35")
@pytest.mark.parametrize("answered", [True, False], ids=["answered", "pending"])
async def test_counting_sees_what_the_model_would_be_sent(bench: Bench, answered: bool) -> None:
    call = {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "search", "server_name": "wiki", "input": {"q": "x"}}
    result = {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [text("found")]}
    said = [call, result, text("Well.")] if answered else [call]
    history = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": said}]
    if answered:
        history.append({"role": "user", "content": "And?"})
    bench.script([text("Fine.")])
    await bench.create(history)
    (sampled,) = bench.model.bodies
    bench.model.bodies.clear()
    counting = {name: value for name, value in bench.request(history).items() if name != "max_tokens"}
    await bench.client.beta.messages.count_tokens(**counting)
    (counted,) = bench.model.bodies
    del sampled["max_tokens"], sampled["stream"]
    if not answered:
        (outcome,) = sampled["messages"][-1]["content"]
        assert outcome["content"]
        outcome["content"] = ""  # what nobody knows before the call is made
    assert counted == sampled


@requirement("messages:38")
async def test_unknown_paths_batches_and_large_bodies_get_their_errors(bench: Bench) -> None:
    async with httpx2.AsyncClient(base_url=bench.gateway.url, headers=HEADERS) as http:
        for path in ("/", "/v1/nothing", "/v1/messages/batches"):
            response = await http.post(path, json={})
            assert response.status_code == 404
            assert response.json()["error"]["type"] == "not_found_error"
        assert (await http.get("/v1/messages")).status_code == 405
        response = await http.post("/v1/messages", content=b"x" * (33 * 1024 * 1024))
        assert (response.status_code, response.json()["error"]["type"]) == (413, "request_too_large")

        async def pieces() -> Any:
            for _ in range(33):
                yield b"x" * (1024 * 1024)

        assert (await http.post("/v1/messages", content=pieces())).status_code == 413
        for content in (b"", b"{", b"\xff", b"[" * 100_000):
            assert (await http.post("/v1/messages", content=content)).status_code == 400


@requirement("messages:37")
async def test_private_addresses_are_refused_unless_allowed(bench: Bench) -> None:
    bench.script([text("never")])
    egress = {"mode": "allow_list", "hosts": ["*"], "http_hosts": ["*"]}
    async with running_gateway(bench.model.url, bench.control, direct_egress=egress) as gateway:
        client = bench.client.with_options(base_url=gateway.url)
        for host in ("169.254.169.254", "127.0.0.1", "10.0.0.1", "[::1]", "localhost", "[::ffff:127.0.0.1]"):
            fields = bench.request(mcp_servers=[{"type": "url", "url": f"https://{host}/mcp", "name": "wiki"}])
            with pytest.raises(BadRequestError, match="Connection error"):
                await client.beta.messages.create(**fields)
        url = bench.wiki.url
        with pytest.raises(BadRequestError, match="Connection error"):
            await client.beta.messages.create(
                **bench.request(mcp_servers=[{"type": "url", "url": url, "name": "wiki"}])
            )
    assert bench.wiki.requests == []


async def test_direct_connections_are_off_by_default(bench: Bench) -> None:
    async with running_gateway(bench.model.url, bench.control, direct_egress={}) as gateway:
        client = bench.client.with_options(base_url=gateway.url)
        servers = [{"type": "url", "url": "https://wiki.example/mcp", "name": "wiki"}]
        with pytest.raises(BadRequestError, match="does not reach hosts outside its tunnels"):
            await client.beta.messages.create(**bench.request(mcp_servers=servers))


async def collect(stream: Any, types: list[str]) -> None:
    """Note the types of the events until the stream ends or fails."""
    async for event in stream:
        types += [event.type]


def overloaded(_: Request) -> Response:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    return JSONResponse(error, 529, {"retry-after": "7"})


@requirement("messages:28")
async def test_an_overloaded_upstream_is_an_http_error_first_and_an_event_later(bench: Bench) -> None:
    bench.script(overloaded)
    for stream in (False, True):
        with pytest.raises(OverloadedError) as caught:
            await bench.create(stream=stream)
        assert caught.value.response.headers["retry-after"] == "7"
    bench.script([use("wiki_search", {"q": "x"})], overloaded)
    with pytest.raises(OverloadedError):
        await bench.create()
    bench.script([use("wiki_search", {"q": "x"})], overloaded)
    seen: list[str] = []
    with pytest.raises(APIStatusError) as later:
        await collect(await bench.create(stream=True), seen)
    assert seen[0] == "message_start"
    assert "message_stop" not in seen
    assert error_of(later.value)["type"] == "overloaded_error"


@requirement("gateway:3")
async def test_a_model_that_vanishes_in_mid_stream_is_an_error_event(bench: Bench) -> None:
    def vanish(_: Request) -> Response:
        async def events() -> Any:
            for event in list(as_events("stub", [text("Once upon a time there was a model")], 1))[:4]:
                yield encode_event(event)

        return StreamingResponse(events(), media_type="text/event-stream")

    bench.script(vanish)
    with pytest.raises(APIStatusError) as caught:
        await collect(await bench.create(stream=True), [])
    assert error_of(caught.value)["type"] == "api_error"
    bench.script(vanish)
    with pytest.raises(APIStatusError) as whole:
        await bench.create()
    assert whole.value.status_code == 500


async def test_our_key_is_not_the_callers_problem(bench: Bench) -> None:
    bench.script(lambda _: JSONResponse({"error": {"message": "bad upstream-key"}}, 401))
    with pytest.raises(APIStatusError) as caught:
        await bench.create()
    assert caught.value.status_code == 500
    assert "upstream-key" not in str(caught.value.body)


async def test_health_and_metrics_are_served(bench: Bench) -> None:
    async with running_gateway(metrics="127.0.0.1:0") as gateway, httpx2.AsyncClient() as http:
        assert (await http.get(f"{gateway.url}/healthz")).status_code == 200
        assert gateway.metrics_address is not None
        host, port = gateway.metrics_address
        assert "qanat_gateway_requests" in (await http.get(f"http://{host}:{port}/metrics")).text


async def test_betas_may_come_in_several_header_lines(bench: Bench) -> None:
    bench.script([text("Hi")])
    body = {name: value for name, value in bench.request().items() if name != "betas"}
    headers = [*HEADERS.items(), ("anthropic-beta", "some-other-beta"), ("anthropic-beta", "mcp-client-2025-11-20")]
    async with httpx2.AsyncClient() as http:
        response = await http.post(f"{bench.gateway.url}/v1/messages", json=body, headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("overloaded_error", 529, "overloaded_error"),
        ("timeout_error", 504, "timeout_error"),
        ("not_found_error", 404, "not_found_error"),
        ("invalid_request_error", 400, "invalid_request_error"),
        ("authentication_error", 500, "api_error"),
        ("billing_error", 500, "api_error"),
        ("new_error", 500, "new_error"),
    ],
)
async def test_an_error_event_before_any_output_has_the_status_of_its_type(
    bench: Bench, kind: str, status: int, told: str
) -> None:
    def fail(_: Request) -> Response:
        event = encode_event({"type": "error", "error": {"type": kind, "message": "m"}})
        return Response(event, media_type="text/event-stream")

    bench.script(fail)
    with pytest.raises(APIStatusError) as caught:
        await bench.create(stream=True)
    assert (caught.value.status_code, error_of(caught.value)["type"]) == (status, told)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
async def test_an_error_of_the_model_that_has_no_end_is_not_read_to_it(bench: Bench, kind: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000
            await asyncio.sleep(0)

    async def fail(_: Request) -> Response:
        return StreamingResponse(endless(), 400)

    routes = [Route(path, fail, methods=["POST"]) for path in ("/v1/messages", "/v1/chat/completions")]
    async with asyncio.timeout(20), serve_asgi(Starlette(routes=routes)) as url:
        base = url if kind == "anthropic" else f"{url}/v1"
        models = {"stub": {"upstream": kind, "base_url": base, "api_key": "k"}}
        async with running_gateway(control=bench.control, models=models) as gateway:
            client = bench.client.with_options(base_url=gateway.url)
            with pytest.raises(BadRequestError):
                await client.messages.create(model="stub", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("content", ["{", '{"temperature": NaN}', "[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(bench: Bench, content: str) -> None:
    async with httpx2.AsyncClient() as http:
        response = await http.post(f"{bench.gateway.url}/v1/messages", content=content, headers=HEADERS)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "The request body is not valid JSON")


async def test_a_body_that_never_ends_is_not_waited_for(bench: Bench) -> None:
    async with running_gateway(bench.model.url, bench.control, limits={"request": "50ms"}) as gateway:
        reader, writer = await asyncio.open_connection(*gateway.address)
        head = ["POST /v1/messages HTTP/1.1", "host: gateway", f"x-api-key: {KEY}", "content-length: 100", "", "{"]
        writer.write("\r\n".join(head).encode())
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
