"""What the gateway asks of a model: one small interface, spoken in the Messages API's own events.

Three things implement it: the Anthropic API, any OpenAI-compatible server, and a built-in demonstration.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

import httpx2

from qanat.gateway.request import Block
from qanat.gateway.turn import Event

MAX_SHORT = 64 * 1024
"""Bytes of an answer that is an error or a number: whatever stands behind the model may send a page, or no end."""


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What travels beside the body of an upstream request."""

    version: str
    betas: tuple[str, ...] = ()
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """What a model takes beyond text."""

    media: frozenset[str] = frozenset()
    """Content block types it may be shown in tool results: `image`, `document`."""
    tool_search: bool = False
    """Whether it understands `defer_loading` and the tool search tools."""


class Upstream(Protocol):
    """A model. The body is a Messages request without anything of MCP."""

    features: Features

    def stream(self, body: Block, info: CallInfo) -> AsyncGenerator[Event, None]:
        """One sampling, as the events of a streamed message. Raises `APIError`, before or between events."""
        ...

    async def count_tokens(self, body: Block, info: CallInfo) -> int:
        """How many tokens the body's input takes. Raises `APIError`."""
        ...


async def short_body(response: httpx2.Response) -> bytes:
    """The beginning of a body that ought to be short, closing the response. Raises `httpx2.HTTPError`."""
    body = bytearray()
    try:
        async for data in response.aiter_bytes():
            body += data
            if len(body) >= MAX_SHORT:
                break
    finally:
        await response.aclose()
    return bytes(body[:MAX_SHORT])
