"""What an MCP tool returned, as blocks: once for the wire, once for the model.

The wire form holds text blocks only (official SDKs give up on typed blocks otherwise); the model also gets images.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qanat.gateway.request import Block

MAX_TEXT = 1024 * 1024
CUT = "\n[result cut: longer than 1 MiB]"
UNREADABLE = "[unreadable content]"
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of one MCP call. `wire` are text blocks; `model` may hold images and documents as well."""

    wire: tuple[Block, ...]
    model: tuple[Block, ...]
    is_error: bool = False

    def blocks_for(self, media: frozenset[str]) -> tuple[Block, ...]:
        """What a model that takes these block types beside text is shown."""
        pairs = zip(self.model, self.wire, strict=True)
        return tuple(rich if rich["type"] in media else plain for rich, plain in pairs)


def failed(text: str) -> ToolResult:
    """A call that brought no result: the model reads why and goes on."""
    blocks = (text_block(text),)
    return ToolResult(blocks, blocks, is_error=True)


def text_block(text: str) -> Block:
    return {"type": "text", "text": text}


def from_mcp(result: Mapping[str, Any]) -> ToolResult:
    """A `tools/call` result (the JSON object of the protocol) as blocks. Unknown content becomes a placeholder."""
    wire: list[Block] = []
    model: list[Block] = []
    items = result.get("content")
    items = items if isinstance(items, list) else []
    if not items and result.get("structuredContent") is not None:
        items = [{"type": "text", "text": json.dumps(result["structuredContent"], separators=(",", ":"))}]
    budget = MAX_TEXT
    for item in items:
        text, media = _convert(item) if isinstance(item, dict) else (UNREADABLE, None)
        if len(text) > budget:
            text, media, budget = text[:budget] + CUT, None, -1
        wire.append(text_block(text))
        model.append(media or text_block(text))
        if budget < 0:
            break
        budget -= len(text)
    return ToolResult(tuple(wire), tuple(model), result.get("isError") is True)


def _convert(item: Mapping[str, Any]) -> tuple[str, Block | None]:
    """One content item as text, and as media if a model could look at it."""
    kind = item.get("type")
    if kind == "text":
        text = item.get("text")
        return text if isinstance(text, str) else UNREADABLE, None
    if kind in ("image", "audio"):
        return _media(kind, str(item.get("mimeType", "")), item.get("data"))
    if kind == "resource_link":
        return f"[resource {item.get('name', '')}: {item.get('uri', '')}]", None
    if kind == "resource" and isinstance(resource := item.get("resource"), dict):
        return _resource(resource)
    return f"[{kind or 'unknown'} content]", None


def _resource(resource: Mapping[str, Any]) -> tuple[str, Block | None]:
    if isinstance(text := resource.get("text"), str):
        return f"{resource.get('uri', '')}\n{text}", None
    return _media("resource", str(resource.get("mimeType", "")), resource.get("blob"))


def _media(kind: str, mime_type: str, data: Any) -> tuple[str, Block | None]:
    size = _decoded_size(data)
    if size is None:
        return f"[{kind} {mime_type}, unreadable]", None
    text = f"[{'image' if mime_type in IMAGE_TYPES else kind} {mime_type}, {size} bytes]"
    if mime_type in IMAGE_TYPES and kind != "audio":
        return text, _base64_block("image", mime_type, data)
    if mime_type == "application/pdf":
        return text, _base64_block("document", mime_type, data)
    return text, None


def _base64_block(kind: str, mime_type: str, data: str) -> Block:
    return {"type": kind, "source": {"type": "base64", "media_type": mime_type, "data": data}}


def _decoded_size(data: Any) -> int | None:
    if not isinstance(data, str):
        return None
    try:
        return len(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return None
