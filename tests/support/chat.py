"""Chunks of a chat-completions stream."""

from __future__ import annotations

from typing import Any

Block = dict[str, Any]


def content(piece: str) -> Block:
    return {"choices": [{"index": 0, "delta": {"content": piece}}]}


def call(arguments: str | None = None, name: str | None = None, **fields: Any) -> Block:
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [{**fields, "function": function}]}}]}


def stop(reason: str) -> Block:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


USAGE: Block = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}
