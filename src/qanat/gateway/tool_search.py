"""Tool search for models that have none: deferred tools are found by words (BM25), and shown from then on. Pure.

The model sees one function; callers see `server_tool_use` and `tool_search_tool_result` blocks. What was found is read
from those blocks, so that a replayed history offers the same tools again. Regular expressions are not offered: one
written by a model could keep this process busy for ever.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qanat.gateway import names
from qanat.gateway.request import Block

BM25_PREFIX = "tool_search_tool_bm25"
RESULTS, MOST_RESULTS = 5, 10_000
K1, B = 1.2, 0.75
"""The usual constants of BM25: how fast repetition stops to count, and how much length counts."""
MAX_QUERY = 1000
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def declaration(entry: Mapping[str, Any]) -> Block:
    """The function that stands for a search tool's entry in `tools`."""
    return {
        "name": entry["name"],
        "description": "Find further tools by words of their names and descriptions. Found tools can be called next.",
        "input_schema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words that describe the tool you need"},
                "limit": {"type": "integer", "minimum": 1, "maximum": MOST_RESULTS},
            },
            "required": ["query"],
        },
    }


def run(use: Block, entries: Sequence[Block]) -> Block:
    """The `tool_search_tool_result` of a search among the deferred ones of `entries`."""
    query, limit = use["input"].get("query"), use["input"].get("limit", RESULTS)
    content: Block
    if not isinstance(query, str) or len(query) > MAX_QUERY or not isinstance(limit, int):
        content = {"type": "tool_search_tool_result_error", "error_code": "invalid_tool_input", "error_message": None}
    else:
        found = rank(query, [entry for entry in entries if entry.get("defer_loading") is True])
        names_found = found[: min(max(limit, 1), MOST_RESULTS)]
        references = [{"type": "tool_reference", "tool_name": name} for name in names_found]
        content = {"type": "tool_search_tool_search_result", "tool_references": references}
    return {"type": "tool_search_tool_result", "tool_use_id": use["id"], "content": content}


def rank(query: str, entries: Sequence[Block]) -> list[str]:
    """Names of the entries that share words with the query, the best first."""
    documents = [(str(entry["name"]), Counter(_words(_text(entry)))) for entry in entries]
    mean = max(sum(words.total() for _, words in documents) / max(len(documents), 1), 1.0)
    weights = {word: _weight(sum(word in words for _, words in documents), len(documents)) for word in _words(query)}
    scored = []
    for name, words in documents:
        length = K1 * (1 - B + B * words.total() / mean)
        score = sum(weight * words[word] * (K1 + 1) / (words[word] + length) for word, weight in weights.items())
        if score > 0:
            scored.append((-score, name))
    return [name for _, name in sorted(scored)]


def _weight(holders: int, documents: int) -> float:
    """A word that few tools have says more."""
    return math.log(1 + (documents - holders + 0.5) / (holders + 0.5))


def _text(entry: Mapping[str, Any]) -> str:
    """Everything of a tool that can be searched: name, description, names and descriptions of its arguments."""
    schema = entry.get("input_schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    parts = [str(entry["name"]), str(entry.get("description") or "")]
    for name, argument in properties.items() if isinstance(properties, dict) else ():
        parts += [str(name), str(argument.get("description", "")) if isinstance(argument, dict) else ""]
    return " ".join(parts)


def _words(text: str) -> list[str]:
    return _WORD.findall(_CAMEL.sub(" ", text).lower())


def found_names(contents: Iterable[Any]) -> set[str]:
    """The tools that searches have found, from the contents of messages."""
    found: set[str] = set()
    for content in contents:
        for block in content if isinstance(content, list) else ():
            if block.get("type") == "tool_search_tool_result":
                found.update(_references(block))
    return found


def _references(block: Mapping[str, Any]) -> list[str]:
    content = block.get("content")
    references = content.get("tool_references") if isinstance(content, dict) else None
    if not isinstance(references, list):
        return []
    return [str(reference.get("tool_name")) for reference in references if isinstance(reference, dict)]


def as_function_call(block: Block) -> Block:
    """A `server_tool_use` block as the call of a function, which is what the model made."""
    return {
        "type": "tool_use",
        "id": names.to_upstream_id(str(block.get("id", ""))),
        "name": block.get("name", BM25_PREFIX),
        "input": block.get("input", {}),
    }


def as_function_result(block: Block) -> Block:
    """A `tool_search_tool_result` block as what the model reads."""
    found = _references(block)
    text = f"Found these tools, which you can call now: {', '.join(found)}" if found else "No tool was found."
    use_id = names.to_upstream_id(str(block.get("tool_use_id", "")))
    return {"type": "tool_result", "tool_use_id": use_id, "content": text}
