"""A chat-completions stream as Messages events.

Servers differ: some repeat a call's name, omit its `index` or `id`, send everything in one chunk, or say `stop` after
a call. Each call is buffered to its end and its arguments are parsed before anything is emitted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qanat.gateway.errors import internal
from qanat.gateway.turn import INVALID, Event, parse_object

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


@dataclass
class BufferedCall:
    """A function call as far as it has arrived."""

    key: object
    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it has an id and all of its arguments: what comes under another id is another call."""
        return bool(self.id and self.arguments) and _is_json(self.arguments)


class ChatStream:
    """One sampling. Feed it parsed chunks, then `finish`."""

    def __init__(self, model: str, make_id: Callable[[], str], show_reasoning: bool = False) -> None:
        self._model, self._make_id, self._show_reasoning = model, make_id, show_reasoning
        self._started = False
        self._next_index = 0
        self._open: str | None = None
        self._calls: list[BufferedCall] = []
        self._finish_reason: str | None = None
        self._done = False
        self._stop_sequence: str | None = None
        self.usage: dict[str, int] = {}
        self.characters = 0
        """Characters of output, for servers that report no usage."""

    def receive(self, chunk: Mapping[str, Any] | None) -> list[Event]:
        """The events one chunk amounts to; None is the server's word that it is done."""
        if chunk is None:
            self._done = True
            return []
        events = self._start()
        self._hear_usage(chunk.get("usage"))
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            events += self._hear_delta(choice.get("delta") or choice.get("message") or {})
            if choice.get("finish_reason"):
                self._finish_reason = choice["finish_reason"]
            if isinstance(stop := choice.get("stop_reason"), str):
                self._stop_sequence = stop  # vLLM names the sequence that matched
        return events

    def finish(self, input_estimate: int) -> list[Event]:
        """The stream has ended. Raises `APIError` if it ended too early."""
        # Some servers call and give no reason. Without their word, what is here may be the beginning of a call.
        if self._finish_reason is None and not (self._calls and self._done):
            raise internal("The upstream model's answer ended early")
        events = [*self._start(), *self._close_block()]
        for call in self._calls:
            events += self._call_events(call)
        stop_reason = STOP_REASONS.get(self._finish_reason or "tool_calls", "end_turn")
        if self._calls and stop_reason == "end_turn":
            stop_reason = "tool_use"
        sequence = self._stop_sequence if stop_reason == "end_turn" else None
        delta = {"stop_reason": "stop_sequence" if sequence else stop_reason, "stop_sequence": sequence}
        events.append({"type": "message_delta", "delta": delta, "usage": self._final_usage(input_estimate)})
        return [*events, {"type": "message_stop"}]

    @property
    def estimated(self) -> bool:
        """Whether the server reported no usage."""
        return not self.usage

    def _final_usage(self, input_estimate: int) -> dict[str, int]:
        return self.usage or {"input_tokens": input_estimate, "output_tokens": max(1, self.characters // 4)}

    def _start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = {"id": "", "type": "message", "role": "assistant", "model": self._model, "usage": usage}
        return [{"type": "message_start", "message": message}]

    def _hear_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        prompt = usage.get("prompt_tokens") or 0
        self.usage = {
            "input_tokens": max(0, prompt - cached),
            "output_tokens": usage.get("completion_tokens") or 0,
            "cache_read_input_tokens": cached,
        }

    def _hear_delta(self, delta: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str) and self._show_reasoning:
            events += self._say("thinking", "thinking_delta", reasoning)
        if isinstance(delta.get("content"), str) and delta["content"]:
            events += self._say("text", "text_delta", delta["content"])
        for position, piece in enumerate(delta.get("tool_calls") or ()):
            events += self._close_block()
            self._hear_call(piece, position)
        return events

    def _say(self, kind: str, delta_type: str, text: str) -> list[Event]:
        events: list[Event] = []
        if self._open != kind:
            events += self._close_block()
            empty = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
            events.append({"type": "content_block_start", "index": self._next_index, "content_block": empty})
            self._open = kind
        self.characters += len(text)
        delta = {"type": delta_type, kind: text}
        return [*events, {"type": "content_block_delta", "index": self._next_index, "delta": delta}]

    def _close_block(self) -> list[Event]:
        if self._open is None:
            return []
        self._open = None
        self._next_index += 1
        return [{"type": "content_block_stop", "index": self._next_index - 1}]

    def _hear_call(self, piece: Mapping[str, Any], position: int) -> None:
        function = piece.get("function") or {}
        call = self._find_call(piece, function, position)
        call.id = call.id or str(piece.get("id") or "")
        if not call.name:
            call.name = str(function.get("name") or "")
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some servers send an object instead of text
            arguments = json.dumps(arguments)
        if isinstance(arguments, str):
            call.arguments += arguments
            self.characters += len(arguments)

    def _find_call(self, piece: Mapping[str, Any], function: Mapping[str, Any], position: int) -> BufferedCall:
        """By `index`; else by `id`; else a piece with a name and a finished predecessor starts a new call.

        Some servers give every call the same index: then another id, with a name, after a whole call is a call too.
        """
        key: object = piece.get("index")
        if key is None:
            key = piece.get("id") or None
        if key is None:
            last = self._calls[-1] if self._calls else None
            starts = last is None or (bool(function.get("name")) and _is_json(last.arguments))
            key = ("unnamed", len(self._calls), position) if last is None or starts else last.key
        found = [call for call in self._calls if call.key == key]
        if (id := piece.get("id")) and (same := [call for call in found if call.id == id]):
            return same[-1]
        if not found or (id and function.get("name") and found[-1].is_whole):
            self._calls.append(BufferedCall(key))
            return self._calls[-1]
        return found[-1]

    def _call_events(self, call: BufferedCall) -> list[Event]:
        index, self._next_index = self._next_index, self._next_index + 1
        block: dict[str, Any] = {"type": "tool_use", "id": self._make_id(), "name": call.name, "input": {}}
        arguments = _object(call.arguments)
        events: list[Event] = [{"type": "content_block_start", "index": index, "content_block": block}]
        if arguments is None:
            block[INVALID] = "the arguments were not a valid JSON object"
        elif arguments:
            delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments, ensure_ascii=False)}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        return [*events, {"type": "content_block_stop", "index": index}]


def _is_json(text: str) -> bool:
    return _object(text) is not None


def _object(text: str) -> dict[str, Any] | None:
    """The arguments as an object; none at all count as an empty one."""
    return parse_object(text) if text.strip() else {}
