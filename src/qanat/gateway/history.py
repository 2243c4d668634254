"""A conversation as the caller keeps it, turned into one that a model without MCP understands.

One assistant message may hold several rounds of calls and results. Each run of results closes an assistant message:
`[text, use, result, text]` becomes assistant `[text, tool_use]`, user `[tool_result]`, assistant `[text]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qanat.gateway import names, tool_search
from qanat.gateway.errors import invalid
from qanat.gateway.request import Block

Message = dict[str, Any]


def as_blocks(content: Any) -> list[Block]:
    """Message content as a list of blocks; a string is one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def pending_calls(messages: Sequence[Message]) -> list[Block]:
    """The `mcp_tool_use` blocks still without a result, all of them in the last assistant turn.

    Raises `APIError` for a history whose calls and results do not pair up.
    """
    opened: dict[str, tuple[int, Block]] = {}
    last_assistant, previous_role = -1, ""
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and previous_role != "assistant":
            last_assistant = number  # consecutive messages of one role are one turn
        previous_role = message["role"]
        for block in as_blocks(message["content"]):
            _pair(f"messages.{number}", message["role"], block, opened, last_assistant)
    for turn, block in opened.values():
        if turn != last_assistant:
            raise invalid(f"messages.{turn}: mcp_tool_use '{block['id']}' has no mcp_tool_result")
    pending = [block for _, block in opened.values()]
    if pending and messages[-1]["role"] == "assistant" and _has_client_call(messages[last_assistant:]):
        raise invalid("messages: the last assistant message has tool_use blocks without tool_result blocks")
    return pending


def _pair(where: str, role: str, block: Block, opened: dict[str, tuple[int, Block]], turn: int) -> None:
    kind = block["type"]
    if kind == "mcp_tool_use":
        _check_use(where, role, block)
        opened[block["id"]] = (turn, block)
    elif kind == "mcp_tool_result":
        _check_result(where, role, block)
        if opened.pop(block["tool_use_id"], None) is None:
            raise invalid(f"{where}: mcp_tool_result '{block['tool_use_id']}' has no mcp_tool_use before it")
    elif kind == "tool_result" and str(block.get("tool_use_id", "")).startswith("mcptoolu_"):
        raise invalid(f"{where}: tool_result is not accepted for the MCP call '{block['tool_use_id']}'")


def _check_use(where: str, role: str, block: Block) -> None:
    strings = all(isinstance(block.get(name), str) and block[name] for name in ("id", "name", "server_name"))
    if role != "assistant" or not strings or not isinstance(block.get("input"), dict):
        raise invalid(f"{where}: mcp_tool_use needs id, name, server_name and input, in an assistant message")


def _check_result(where: str, role: str, block: Block) -> None:
    content = block.get("content", [])
    fine = isinstance(content, str) or (
        isinstance(content, list) and all(isinstance(item, dict) and item.get("type") == "text" for item in content)
    )
    if role != "assistant" or not isinstance(block.get("tool_use_id"), str) or not fine:
        raise invalid(f"{where}: mcp_tool_result needs tool_use_id and text content, in an assistant message")


def _has_client_call(messages: Sequence[Message]) -> bool:
    return any(block["type"] == "tool_use" for message in messages for block in as_blocks(message["content"]))


def to_upstream(
    messages: Sequence[Message], media: Mapping[str, Sequence[Block]] | None = None, *, searches: bool = False
) -> list[Message]:
    """The same conversation without MCP blocks. `media` holds richer content for some results, by wire id.

    `searches`: tool searches become calls of a function, for models that know no others.
    """
    translated: list[Message] = []
    for message in messages:
        if message["role"] == "assistant":
            for blocks, results in _rounds(as_blocks(message["content"]), media or {}, searches):
                _append(translated, "assistant", blocks)
                _append(translated, "user", results)
        else:
            _append(translated, message["role"], as_blocks(message["content"]), message)
    translated = [kept for message in translated if (kept := _without_cut_thinking(message))["content"]]
    for number in range(1, len(translated)):
        if translated[number]["role"] == "user" and translated[number - 1]["role"] == "assistant":
            translated[number]["content"] = _results_first(translated[number - 1], translated[number]["content"])
    return translated


def _without_cut_thinking(message: Message) -> Message:
    """A message without the thinking it ends in: time ran out in the middle, and upstreams refuse it."""
    blocks = message["content"]
    while message["role"] == "assistant" and blocks and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
        blocks = blocks[:-1]
    return {**message, "content": blocks}


def _append(messages: list[Message], role: str, blocks: list[Block], source: Message | None = None) -> None:
    """Add blocks as a message, or to the last message when that is of the same role."""
    if not blocks:
        return
    if messages and messages[-1]["role"] == role and role != "system":
        messages[-1]["content"] = messages[-1]["content"] + blocks
    else:
        extra = {key: value for key, value in (source or {}).items() if key not in ("role", "content")}
        messages.append({"role": role, "content": blocks, **extra})


def _rounds(
    blocks: list[Block], media: Mapping[str, Sequence[Block]], searches: bool
) -> list[tuple[list[Block], list[Block]]]:
    rounds: list[tuple[list[Block], list[Block]]] = []
    said: list[Block] = []
    results: list[Block] = []
    for block in blocks:
        if block["type"] == "mcp_tool_result":
            results.append(_tool_result(block, media))
            continue
        if searches and block["type"] == "tool_search_tool_result":
            results.append(tool_search.as_function_result(block))
            continue
        if results:
            rounds.append((said, results))
            said, results = [], []
        if searches and block["type"] == "server_tool_use":
            said.append(tool_search.as_function_call(block))
        elif (translated := _said(block)) is not None:
            said.append(translated)
    return [*rounds, (said, results)]


def _said(block: Block) -> Block | None:
    """An assistant block other than a result. None for what the model must not see."""
    if block["type"] == "mcp_tool_listing" or (block["type"] == "text" and not block.get("text")):
        return None
    if block["type"] != "mcp_tool_use":
        return block
    return {
        "type": "tool_use",
        "id": names.to_upstream_id(block["id"]),
        "name": names.compose(block["server_name"], block["name"]),
        "input": block["input"],
        **_cache_control(block),
    }


def _tool_result(block: Block, media: Mapping[str, Sequence[Block]]) -> Block:
    content = block.get("content", [])
    if isinstance(content, list):
        rich = media.get(block["tool_use_id"])
        content = (
            list(rich) if rich is not None else [{"type": "text", "text": item.get("text", "")} for item in content]
        )
        content = [item for item in content if item["type"] != "text" or item["text"]]
    result: Block = {
        "type": "tool_result",
        "tool_use_id": names.to_upstream_id(block["tool_use_id"]),
        "content": content or "",
    }
    if block.get("is_error"):
        result |= {"is_error": True, "content": content or "The tool failed without a word."}
    return result | _cache_control(block)


def _cache_control(block: Block) -> Block:
    return {"cache_control": block["cache_control"]} if block.get("cache_control") else {}


def _results_first(assistant: Message, blocks: list[Block]) -> list[Block]:
    """Tool results in the order of their uses, then everything else: what upstreams insist on."""
    order = {block["id"]: number for number, block in enumerate(assistant["content"]) if block["type"] == "tool_use"}
    results = [block for block in blocks if block["type"] == "tool_result"]
    others = [block for block in blocks if block["type"] != "tool_result"]
    return sorted(results, key=lambda block: order.get(block.get("tool_use_id"), len(order))) + others
