"""What MCP tools return, on the wire and for the model."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from qanat.gateway.results import MAX_TEXT, from_mcp
from tests.support.requirements import requirement

PNG = base64.b64encode(b"0123456789").decode()


def wire(*content: Any, **extra: Any) -> list[str]:
    converted = from_mcp({"content": list(content), **extra})
    assert all(set(block) == {"type", "text"} for block in converted.wire)
    return [block["text"] for block in converted.wire]


def shown(*content: Any) -> list[str]:
    return [block["type"] for block in from_mcp({"content": list(content)}).model]


@requirement("messages:17")
def test_images_are_text_on_the_wire_and_images_for_a_model_that_takes_them() -> None:
    image = {"type": "image", "mimeType": "image/png", "data": PNG}
    assert wire({"type": "text", "text": "look"}, image) == ["look", "[image image/png, 10 bytes]"]
    converted = from_mcp({"content": [image]})
    assert converted.blocks_for(frozenset({"image"}))[0]["source"]["data"] == PNG
    assert converted.blocks_for(frozenset()) == converted.wire


@pytest.mark.parametrize(
    ("item", "said", "kind"),
    [
        ({"type": "audio", "mimeType": "audio/wav", "data": PNG}, "[audio audio/wav, 10 bytes]", "text"),
        ({"type": "resource_link", "name": "n", "uri": "file:///x"}, "[resource n: file:///x]", "text"),
        ({"type": "resource", "resource": {"uri": "u", "text": "t"}}, "u\nt", "text"),
        (
            {"type": "resource", "resource": {"uri": "u", "mimeType": "image/png", "blob": PNG}},
            "[image image/png, 10 bytes]",
            "image",
        ),
        (
            {"type": "resource", "resource": {"uri": "u", "mimeType": "application/pdf", "blob": PNG}},
            "[resource application/pdf, 10 bytes]",
            "document",
        ),
        (
            {"type": "resource", "resource": {"uri": "u", "mimeType": "application/zip", "blob": PNG}},
            "[resource application/zip, 10 bytes]",
            "text",
        ),
        ({"type": "image", "mimeType": "image/png", "data": "!"}, "[image image/png, unreadable]", "text"),
        ({"type": "hologram"}, "[hologram content]", "text"),
        ("nonsense", "[unreadable content]", "text"),
    ],
)
def test_every_kind_of_content_has_a_text(item: Any, said: str, kind: str) -> None:
    assert wire(item) == [said]
    assert shown(item) == [kind]


@requirement("messages:18")
def test_structured_content_speaks_only_when_nothing_else_does() -> None:
    assert wire(structuredContent={"a": [1]}) == ['{"a":[1]}']
    assert wire({"type": "text", "text": "x"}, structuredContent={"a": 1}) == ["x"]
    assert wire() == []
    assert from_mcp({"content": [], "isError": True}).is_error


def test_a_long_result_is_cut_with_a_marker() -> None:
    pieces = [
        {"type": "text", "text": "x" * 700_000},
        {"type": "text", "text": "y" * 700_000},
        {"type": "text", "text": "z"},
    ]
    texts = wire(*pieces)
    assert len(texts) == 2
    assert texts[1].endswith("[result cut: longer than 1 MiB]")
    assert sum(map(len, texts)) < MAX_TEXT + 100
