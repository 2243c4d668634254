"""The server-side loop: sample, run the MCP calls the model made, sample again.

A reply that also calls one of the client's tools ends the response; its MCP calls stay pending until the client comes
back. Failed tool calls never fail the request: the model reads the error and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from qanat.gateway import tool_search
from qanat.gateway.errors import APIError, invalid, too_long
from qanat.gateway.history import Message, to_upstream
from qanat.gateway.request import Block, MessagesRequest
from qanat.gateway.results import ToolResult, failed
from qanat.gateway.tools import ToolTable, is_search_tool
from qanat.gateway.turn import Call, Event, Turn
from qanat.gateway.upstream import CallInfo, Upstream

Emit = Callable[[list[Event]], Awaitable[None]]
OWN_FIELDS = ("mcp_servers", "stream", "tools", "messages", "thread")
MIN_THINKING = 1024


class ToolCaller(Protocol):
    """Whoever runs MCP calls. Never raises for what a server does; that becomes an error result."""

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> ToolResult: ...


@dataclass(frozen=True)
class LoopLimits:
    """Bounds of one response."""

    iterations: int = 10
    parallel_calls: int = 16
    deadline: float | None = None
    """By the loop's clock."""


@dataclass(frozen=True)
class Conversation:
    """Everything one response is made from."""

    request: MessagesRequest
    table: ToolTable
    upstream: Upstream
    tools: ToolCaller
    info: CallInfo
    limits: LoopLimits = LoopLimits()
    upstream_model: str = ""
    media: dict[str, tuple[Block, ...]] | None = None
    """Richer content of results in the history, by wire id."""


async def answer(talk: Conversation, turn: Turn, pending: Sequence[Block], emit: Emit) -> None:
    """Produce the response into `turn`, emitting events on the way. Raises `APIError`; cancellable at any point."""
    try:
        async with asyncio.timeout_at(talk.limits.deadline):
            stop_reason = await _run(talk, turn, pending, emit)
    except TimeoutError:
        closing = turn.abandon()
        if not turn.content or closing is None:
            raise too_long() from None
        await emit(closing)
        stop_reason = "tool_use" if turn.has_client_call else "pause_turn"
    await emit(turn.finish(stop_reason))


async def _run(talk: Conversation, turn: Turn, pending: Sequence[Block], emit: Emit) -> str:
    if pending:
        await emit(turn.start())
        await _run_calls(talk, turn, [Call(use) for use in pending], emit)
    for iteration in range(talk.limits.iterations):
        body = upstream_body(talk, turn, first=iteration == 0)
        if body is None:
            return "max_tokens"
        await _sample(talk, turn, body, emit)
        stop_reason = turn.stop_reason or "end_turn"
        if not turn.calls:
            return "end_turn" if stop_reason == "tool_use" and not turn.has_client_call else stop_reason
        if stop_reason == "refusal":  # what the model was kept from finishing must have no effects
            turn.calls = [replace(call, problem="the model refused to go on") for call in turn.calls]
        if turn.has_client_call:
            await _run_searches(talk, turn, turn.calls, emit)
            for call in turn.calls:  # left pending, it would be made with other arguments, or refused for ever
                if not call.is_search and (refusal := _refusal(talk, call)) is not None:
                    await emit(turn.add_result(call.use, refusal))
            return "tool_use" if stop_reason == "end_turn" else stop_reason  # cut off, its call is not whole
        await _run_calls(talk, turn, turn.calls, emit)
        if stop_reason not in ("tool_use", "end_turn"):
            return stop_reason
    return "pause_turn"


async def _sample(talk: Conversation, turn: Turn, body: Block, emit: Emit) -> None:
    turn.begin_iteration()
    async with aclosing(talk.upstream.stream(body, talk.info)) as events:
        async for event in events:
            if wire := turn.receive(event):
                await emit(wire)
    if turn.stop_reason is None:
        raise APIError(500, "The model's answer ended early")


async def _run_calls(talk: Conversation, turn: Turn, calls: Sequence[Call], emit: Emit) -> None:
    """Run all calls at once, at most so many at a time; results come in the order of the calls."""
    await _run_searches(talk, turn, calls, emit)
    calls = [call for call in calls if not call.is_search]
    gate = asyncio.Semaphore(talk.limits.parallel_calls)

    async def outcome(call: Call) -> ToolResult:
        if (refusal := _refusal(talk, call)) is not None:
            return refusal
        use = call.use
        async with gate:
            return await talk.tools.call(use["server_name"], use["name"], use["input"])

    async def run(call: Call) -> None:
        turn.arrived[call.use["id"]] = await outcome(call)

    turn.running = list(calls)
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(run(call))
    for call in calls:
        await emit(turn.add_result(call.use, turn.arrived[call.use["id"]]))
    turn.running = []


def _refusal(talk: Conversation, call: Call) -> ToolResult | None:
    """What comes of a call that cannot be made."""
    if call.problem is not None:
        return failed(f"The tool was not called: {call.problem}.")
    server, tool = call.use["server_name"], call.use["name"]
    return None if talk.table.offers(server, tool) else failed(f"There is no tool named '{tool}' on '{server}'.")


async def _run_searches(talk: Conversation, turn: Turn, calls: Sequence[Call], emit: Emit) -> None:
    for call in calls:
        if call.is_search:
            await emit(turn.add(tool_search.run(call.use, talk.table.entries)))


def upstream_body(talk: Conversation, turn: Turn, *, first: bool) -> Block | None:
    """The body of the next sampling. None when the output budget is used up."""
    request = talk.request
    body = {key: value for key, value in request.body.items() if key not in OWN_FIELDS}
    body["model"] = talk.upstream_model or request.model
    if entries := offered_tools(talk, turn):
        body["tools"] = entries
    body["messages"] = translated_messages(talk, turn)
    remaining = request.max_tokens - turn.usage.total("output_tokens")
    if not first and (remaining < 1 or not _fit_thinking(body, remaining)):
        return None
    body["max_tokens"] = remaining
    if not first and (choice := body.get("tool_choice")) and choice.get("type") in ("any", "tool"):
        # A forced call is made once; forcing it again would never let the model answer.
        body["tool_choice"] = {**{k: v for k, v in choice.items() if k != "name"}, "type": "auto"}
    return body


def offered_tools(talk: Conversation, turn: Turn) -> list[Block]:
    """The tools the model is shown. One that cannot search by itself sees a function, and what it found with that."""
    if talk.upstream.features.tool_search:
        return talk.table.entries
    found = tool_search.found_names([*(message["content"] for message in talk.request.messages), turn.content])
    offered: list[Block] = []
    for entry in talk.table.entries:
        if is_search_tool(entry):
            if not isinstance(entry.get("name"), str):
                raise invalid(f"tools: '{entry['type']}' needs a name")
            if not str(entry["type"]).startswith(tool_search.BM25_PREFIX):
                raise invalid(f"tools: '{entry['type']}' needs an Anthropic model; use {tool_search.BM25_PREFIX}")
            offered.append(tool_search.declaration(entry))
        elif entry.get("defer_loading") is not True or entry.get("name") in found:
            offered.append(entry)
    return offered


def translated_messages(talk: Conversation, turn: Turn) -> list[Message]:
    """The history and what this response holds so far, without MCP blocks."""
    messages = list(talk.request.messages)
    if turn.content:
        messages.append({"role": "assistant", "content": turn.content})
    takes = talk.upstream.features.media
    media = dict(talk.media or {})
    media |= {wire_id: result.blocks_for(takes) for wire_id, result in turn.results.items()}
    return to_upstream(messages, media, searches=not talk.upstream.features.tool_search)


def _fit_thinking(body: Block, remaining: int) -> bool:
    thinking = body.get("thinking")
    if not isinstance(thinking, dict) or not isinstance(thinking.get("budget_tokens"), int):
        return True
    if remaining <= MIN_THINKING:
        return False
    body["thinking"] = {**thinking, "budget_tokens": min(thinking["budget_tokens"], remaining - 1)}
    return True
