"""A Messages request as a chat-completions request, for vLLM, Ollama, llama.cpp and their like."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from qanat.gateway.errors import invalid
from qanat.gateway.history import as_blocks
from qanat.gateway.request import Block

UNSUPPORTED = ("container", "fallbacks", "context_management", "compaction")
SAMPLING = ("temperature", "top_p", "top_k")


def to_chat(body: Block, *, max_tokens_field: str = "max_tokens") -> Block:
    """The body for `/chat/completions`, always streamed. Raises `APIError` for what cannot be carried over."""
    for name in UNSUPPORTED:
        if body.get(name) is not None:
            raise invalid(f"{name}: not supported by the model '{body['model']}'")
    chat: Block = {
        "model": body["model"],
        "messages": chat_messages(body),
        max_tokens_field: body.get("max_tokens"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chat |= {name: body[name] for name in SAMPLING if name in body}
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if tools := [_tool(tool) for tool in body.get("tools") or []]:
        chat["tools"] = tools
        chat |= _tool_choice(body.get("tool_choice"))
    return chat


def _tool(tool: Block) -> Block:
    if "input_schema" not in tool:
        raise invalid(f"tools: the type '{tool.get('type')}' needs an Anthropic model")
    if not isinstance(tool.get("name"), str):
        raise invalid("tools: each tool needs a name")
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Block:
    if not isinstance(choice, dict):
        return {}
    named = {"type": "function", "function": {"name": choice.get("name")}}
    chosen = {"auto": "auto", "any": "required", "none": "none", "tool": named}.get(str(choice.get("type")))
    fields: Block = {} if chosen is None else {"tool_choice": chosen}
    if choice.get("disable_parallel_tool_use") is True:
        fields["parallel_tool_calls"] = False
    return fields


def chat_messages(body: Block) -> list[Block]:
    """The system prompt and the history."""
    messages: list[Block] = []
    if system := _joined(as_blocks(body.get("system") or "")):
        messages.append({"role": "system", "content": system})
    for message in body["messages"]:
        blocks = as_blocks(message["content"])
        if message["role"] == "assistant":
            messages.append(_assistant(blocks))
        elif message["role"] == "system":
            messages.append({"role": "system", "content": _joined(blocks)})
        else:
            messages += _user(blocks)
    return messages


def _joined(blocks: Iterable[Block]) -> str:
    return "\n\n".join(block["text"] for block in blocks if block.get("type") == "text" and block.get("text"))


def _assistant(blocks: Sequence[Block]) -> Block:
    """Text and calls; thinking is the model's own business and is not sent back."""
    text = "".join(block.get("text", "") for block in blocks if block["type"] == "text")
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"], ensure_ascii=False)},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    if not calls:
        return {"role": "assistant", "content": text}  # strict servers refuse a message with neither
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


def _user(blocks: Sequence[Block]) -> list[Block]:
    """Results as `tool` messages, what they show as a user message after them, then what the user said."""
    messages: list[Block] = []
    parts: list[Block] = []
    for block in blocks:
        if block["type"] == "tool_result":
            text, shown = _result(block)
            messages.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": text})
            parts += shown
        else:
            parts.append(_part(block))
    if parts:
        plain = all(part["type"] == "text" for part in parts)
        content = "\n\n".join(part["text"] for part in parts) if plain else parts
        messages.append({"role": "user", "content": content})
    return messages


def _result(block: Block) -> tuple[str, list[Block]]:
    content = as_blocks(block.get("content") or "")
    text = "\n".join(str(item.get("text", "")) for item in content if item["type"] == "text")
    if block.get("is_error"):
        text = f"Error: {text}"
    return text, [_part(item) for item in content if item["type"] != "text"]


def _part(block: Block) -> Block:
    if block["type"] == "text":
        return {"type": "text", "text": block.get("text", "")}
    source = block["source"] if isinstance(block.get("source"), dict) else {}
    kind = source.get("type")
    if block["type"] == "image" and kind in ("url", "base64"):
        url = source.get("url") if kind == "url" else f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": url}}
    if block["type"] == "document" and kind == "text":
        return {"type": "text", "text": str(source.get("data", ""))}
    of_kind = f" with a source of type '{kind}'" if source else ""
    raise invalid(f"messages: content of type '{block['type']}'{of_kind} needs an Anthropic model")
