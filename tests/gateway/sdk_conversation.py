"""Talks to a gateway with whatever `anthropic` package is installed, and prints what it saw as JSON.

Run by the tests in environments of their own; needs nothing but that package.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anthropic

URL, KEY, WIKI = sys.argv[1:4]
OPTIONS: dict[str, Any] = {
    "model": "stub",
    "max_tokens": 1000,
    "mcp_servers": [{"type": "url", "url": WIKI, "name": "wiki"}],
    "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
    "betas": ["mcp-client-2025-11-20"],
}
WEATHER = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}


def ask(question: str, **changes: Any) -> dict[str, Any]:
    return {**OPTIONS, "messages": [{"role": "user", "content": question}], **changes}


def summary(message: Any) -> dict[str, Any]:
    usage = message.usage
    return {
        "types": [block.type for block in message.content],
        "classes": [type(block).__name__.removeprefix("Parsed") for block in message.content],
        "stop_reason": message.stop_reason,
        "servers": [getattr(block, "server_name", None) for block in message.content],
        "pairs": [getattr(block, "tool_use_id", None) or getattr(block, "id", None) for block in message.content],
        "tokens": [usage.input_tokens, usage.output_tokens],
        "iterations": [[item.input_tokens, item.output_tokens] for item in getattr(usage, "iterations", None) or []],
    }


def as_parameters(message: Any) -> list[Any]:
    return [block.model_dump(exclude_none=True) for block in message.content]


def synchronous() -> dict[str, Any]:
    client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=60)
    seen: dict[str, Any] = {"version": anthropic.__version__}
    one = client.beta.messages.create(**ask("one"))
    seen["one"] = summary(one)
    seen["result_class"] = type(one.content[1].content[0]).__name__
    with client.beta.messages.stream(**ask("one")) as helper:
        seen["helper_events"] = sorted({event.type for event in helper})
        seen["streamed"] = summary(helper.get_final_message())
    stream = client.beta.messages.create(**ask("one"), stream=True)
    seen["raw"] = [(event.type, getattr(event, "index", None)) for event in stream]
    seen["two"] = summary(client.beta.messages.create(**ask("two")))
    history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": as_parameters(one)}]
    history.append({"role": "user", "content": "more"})
    seen["replayed"] = summary(client.beta.messages.create(**ask("", messages=history)))
    tools = [WEATHER, *OPTIONS["tools"]]
    mixed = client.beta.messages.create(**ask("mixed", tools=tools))
    seen["mixed"] = summary(mixed)
    answer = {"type": "tool_result", "tool_use_id": mixed.content[0].id, "content": "sunny"}
    history = [{"role": "user", "content": "mixed"}, {"role": "assistant", "content": as_parameters(mixed)}]
    history.append({"role": "user", "content": [answer]})
    seen["resumed"] = summary(client.beta.messages.create(**ask("", messages=history, tools=tools)))
    for name, question in (("two", "two"), ("mixed", "mixed")):
        with client.beta.messages.stream(**ask(question, tools=tools)) as helper:
            seen[f"{name}_streamed"] = summary(helper.get_final_message())
    seen |= others(client)
    bearer = anthropic.Anthropic(base_url=URL, auth_token=KEY, max_retries=0)
    seen["bearer"] = summary(bearer.beta.messages.create(**ask("nothing")))
    runner = client.beta.messages.tool_runner(**ask("forever"))
    seen["runner"] = [message.stop_reason for message in runner]
    return seen


def others(client: Any) -> dict[str, Any]:
    """The deprecated shape, refusals, models, counting."""
    server = {**OPTIONS["mcp_servers"][0], "tool_configuration": {"allowed_tools": ["search"]}}
    old = {"mcp_servers": [server], "tools": [], "betas": ["mcp-client-2025-04-04"]}
    refused = []
    unknown = [{"type": "mcp_toolset", "mcp_server_name": "nobody"}]
    wrong: list[dict[str, Any]] = [{"tools": []}, {"tools": unknown}, {"betas": []}]
    for changes in wrong:
        for stream in (False, True):
            try:
                client.beta.messages.create(**ask("one", **changes, stream=stream))
            except anthropic.BadRequestError as error:
                body: Any = error.body
                refused.append(body["error"]["type"])
    counting = {key: value for key, value in ask("one").items() if key != "max_tokens"}
    bare = {**counting, "mcp_servers": [], "tools": []}
    try:
        missing = client.models.retrieve("nope").id
    except anthropic.NotFoundError:
        missing = "not found"
    counts = [client.beta.messages.count_tokens(**fields).input_tokens for fields in (bare, counting)]
    return {
        "deprecated": summary(client.beta.messages.create(**ask("one", **old))),
        "refused": refused,
        "models": sorted(model.id for model in client.models.list()),
        "missing": missing,
        "counts_tools": counts[0] < counts[1],
    }


async def asynchronous() -> dict[str, Any]:
    async with anthropic.AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0) as client:
        seen = {"async_one": summary(await client.beta.messages.create(**ask("one")))}
        async with client.beta.messages.stream(**ask("one")) as stream:
            seen["async_streamed"] = summary(await stream.get_final_message())
    return seen


print(json.dumps({**synchronous(), **asyncio.run(asynchronous())}))
