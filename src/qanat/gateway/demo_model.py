"""`qanat-demo`: a stand-in for a model, so that the whole tunnel can be tried without an API key or a download.

It is no language model and says so. It matches the words of a request with the names, descriptions and schemas of the
tools at hand, calls the best match once, and puts what comes back into a sentence. The same request always gets the
same answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from qanat.gateway.history import as_blocks
from qanat.gateway.names import to_upstream_id
from qanat.gateway.request import Block
from qanat.gateway.turn import Event
from qanat.gateway.upstream import CallInfo, Features
from qanat.ids import ALPHABET

NOTICE = "I am qanat-demo, not a language model: I pick a tool by matching words. "
_STOP_WORDS = """a an and are as at be by can could do does for from give have how i in is it let me my of on or please
    tell that the then this to use using want was what when where which who will with would you your"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_WORD = re.compile(r"[a-z0-9]+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_QUOTED = re.compile(r"\"([^\"]+)\"|'([^']+)'|`([^`]+)`|“([^”]+)”")


class DemoModel:
    """The built-in upstream. Touches no network and keeps no state."""

    features = Features()

    async def stream(self, body: Block, info: CallInfo) -> AsyncGenerator[Event, None]:
        blocks = reply(body)
        for event in as_events(body["model"], blocks, estimate_tokens(body)):
            yield event

    async def count_tokens(self, body: Block, info: CallInfo) -> int:
        return estimate_tokens(body)


def reply(body: Block) -> list[Block]:
    """The content of the answer: a notice and a call, or a result in words."""
    messages = body["messages"]
    results = _last_results(messages)
    if results:
        return [_text("\n\n".join(_tell(name, result) for name, result in results))]
    question = _last_question(messages)
    tool = _choose(question, body)
    if tool is None:
        return [_text(NOTICE + _offer(body.get("tools") or []))]
    seed = sum(map(ord, question)) + 7919 * len(messages)
    use = {
        "type": "tool_use",
        "id": to_upstream_id("01" + "".join(ALPHABET[(seed >> shift) % 58] for shift in range(22))),
        "name": tool["name"],
        "input": fill_arguments(tool.get("input_schema") or {}, question, words(tool["name"])),
    }
    return [_text(f"{NOTICE}Your request fits the tool `{tool['name']}` best, so I call it."), use]


def words(text: str) -> list[str]:
    """Lower-case words without their plural s, stop words left out."""
    found = _WORD.findall(text.lower().replace("_", " "))
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found if word not in STOP_WORDS]


def score(question: Sequence[str], tool: Mapping[str, Any]) -> int:
    """How well a tool fits the words of a request: its name counts most."""
    asked = set(question)
    named = asked & set(words(str(tool["name"])))
    described = asked & set(words(str(tool.get("description", ""))))
    taken = asked & set(_argument_words(tool.get("input_schema") or {}))
    return 5 * len(named) + 2 * len(described) + len(taken)


def _argument_words(schema: Mapping[str, Any]) -> Iterator[str]:
    """What a tool's arguments are called, and what they may be where only some values are allowed."""
    for name, property_schema in _properties(schema).items():
        yield from words(name)
        for option in _without_null(property_schema).get("enum") or ():
            yield from words(str(option))


def _choose(question: str, body: Block) -> Block | None:
    choice = body.get("tool_choice") or {"type": "auto"}
    tools = [tool for tool in body.get("tools") or [] if "input_schema" in tool]
    if choice["type"] == "none" or not tools:
        return None
    if choice["type"] == "tool":
        return next((tool for tool in tools if tool["name"] == choice.get("name")), None)
    asked = words(question)
    # Of equals the one that needs the fewest arguments, and then the first.
    best = max(tools, key=lambda tool: (score(asked, tool), -len(tool["input_schema"].get("required") or ())))
    return best if score(asked, best) > 0 or choice["type"] == "any" else None


def fill_arguments(schema: Mapping[str, Any], question: str, tool_words: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments for a schema from the words of a request: quoted text, numbers and enum values, in order."""
    quoted = iter(["".join(match) for match in _QUOTED.findall(question)])
    numbers = iter(_NUMBER.findall(_QUOTED.sub(" ", question)))
    required = schema.get("required") or []
    arguments: dict[str, Any] = {}
    for name, property_schema in _properties(schema).items():
        value = _fill(name, property_schema, question, quoted, numbers)
        if value is None and name in required:
            value = _fall_back(property_schema, question, tool_words)
        if value is not None:
            arguments[name] = value
    return arguments


def _without_null(schema: Any) -> dict[str, Any]:
    """A property's schema; of one that may also be null (`anyOf`), the rest."""
    if not isinstance(schema, dict):
        return {}
    choices = [each for each in schema.get("anyOf") or () if isinstance(each, dict) and each.get("type") != "null"]
    return {**schema, **choices[0]} if choices else schema


def _fill(name: str, schema: Any, question: str, quoted: Iterator[str], numbers: Iterator[str]) -> Any:
    schema = _without_null(schema)
    if isinstance(options := schema.get("enum"), list):
        lower = question.lower()
        return next((option for option in options if str(option).lower() in lower), None)
    kind = schema.get("type", "string")
    if kind == "integer":
        return next((int(float(number)) for number in numbers), None)
    if kind == "number":
        return next((float(number) for number in numbers), None)
    if kind == "boolean":
        return True if set(words(name)) & set(words(question)) else None
    if kind == "string":
        return next(quoted, None) or _after_name(name, question)
    return None


def _after_name(name: str, question: str) -> str | None:
    """The word after the property's name, as in `city Paris` or `city: Paris`."""
    pattern = rf"\b{re.escape(name.replace('_', ' '))}\b\s*(?:is|=|:|named|called)?\s*([\w.@/-]+)"
    found = re.search(pattern, question, re.IGNORECASE)
    return found[1].rstrip(".") if found and found[1].lower() not in STOP_WORDS else None


def _fall_back(schema: Any, question: str, tool_words: Sequence[str]) -> Any:
    """Something of the right type for a required argument that the request does not spell out."""
    schema = _without_null(schema)
    if "default" in schema:
        return schema["default"]
    if isinstance(options := schema.get("enum"), list) and options:
        return options[0]
    kind = schema.get("type", "string")
    if kind == "string":
        left = [word for word in re.findall(r"[\w.@/-]+", question) if words(word) and words(word)[0] not in tool_words]
        return " ".join(left).rstrip(".") or question
    return {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}.get(str(kind))


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _last_question(messages: Sequence[Block]) -> str:
    for message in reversed(messages):
        if message["role"] == "user":
            texts = [block.get("text", "") for block in as_blocks(message["content"]) if block["type"] == "text"]
            if texts:
                return "\n".join(texts)
    return ""


def _last_results(messages: Sequence[Block]) -> list[tuple[str, Block]]:
    """The results that close the conversation, each with the name of its tool."""
    if len(messages) < 2 or messages[-1]["role"] != "user":
        return []
    blocks = as_blocks(messages[-1]["content"])
    if not blocks or blocks[-1]["type"] != "tool_result":
        return []
    uses = {block["id"]: block["name"] for block in as_blocks(messages[-2]["content"]) if block["type"] == "tool_use"}
    return [(uses.get(b["tool_use_id"], "the tool"), b) for b in blocks if b["type"] == "tool_result"]


def _tell(name: str, result: Block) -> str:
    text = "\n".join(block.get("text", f"[{block['type']}]") for block in as_blocks(result.get("content") or ""))
    if result.get("is_error"):
        return f"The tool `{name}` reported a problem: {text or 'it did not say which'}"
    if not text.strip():
        return f"The tool `{name}` ran and returned nothing."
    return f"The tool `{name}` answered:\n\n{_readable(text)}"


def _readable(text: str) -> str:
    """JSON as a list for people; any other text as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return "\n".join(_lines(value)) if isinstance(value, dict | list) and value else text


def _lines(value: Any, indent: str = "") -> list[str]:
    pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    lines = []
    for name, item in pairs:
        label = f"{indent}- " + (f"{name}: " if name is not None else "")
        if isinstance(item, dict | list) and item:
            nested = _lines(item, indent + "  ")
            if name is None:  # the first line of an item carries its dash
                lines += [f"{indent}- {nested[0].strip().removeprefix('- ')}", *nested[1:]]
            else:
                lines += [label.rstrip(), *nested]
        else:
            lines.append(label + (item if isinstance(item, str) else json.dumps(item)))
    return lines


def _offer(tools: Sequence[Block]) -> str:
    names = [f"`{tool['name']}`" for tool in tools if "name" in tool]
    if not names:
        return "This request brings no tools, so there is nothing I can do."
    return f"None of the tools fits your request. I can call: {', '.join(names)}."


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def estimate_tokens(body: Block) -> int:
    """Four characters to a token, over everything the model would read."""
    read = {name: body[name] for name in ("system", "messages", "tools") if name in body}
    return max(1, len(json.dumps(read, ensure_ascii=False)) // 4)


def as_events(model: str, blocks: Sequence[Block], input_tokens: int) -> Iterator[Event]:
    """A finished answer as the events of a stream, text in pieces of a few words."""
    output_tokens = max(1, len(json.dumps(list(blocks), ensure_ascii=False)) // 4)
    usage = {"input_tokens": input_tokens, "output_tokens": 1}
    message = {"id": "msg_demo", "type": "message", "role": "assistant", "model": model, "content": [], "usage": usage}
    yield {"type": "message_start", "message": message}
    for index, block in enumerate(blocks):
        yield from _block_events(index, block)
    called = any(block["type"] == "tool_use" for block in blocks)
    delta = {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}}
    yield {"type": "message_stop"}


def _block_events(index: int, block: Block) -> Iterator[Event]:
    empty: Block
    if block["type"] == "text":
        empty, key, kind, pieces = {"text": ""}, "text", "text_delta", re.findall(r"(?:\S+\s*){1,4}|\s+", block["text"])
    else:
        empty, key, kind, pieces = {"input": {}}, "partial_json", "input_json_delta", [json.dumps(block["input"])]
    yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
    for piece in pieces:
        yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, key: piece}}
    yield {"type": "content_block_stop", "index": index}
