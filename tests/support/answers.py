"""What official clients got, taken out of their types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anthropic import APIStatusError
    from anthropic.types.beta import BetaMessage
    from mcp.types import CallToolResult


def first_text(result: CallToolResult) -> str:
    """The text a tool answered with."""
    block = result.content[0]
    assert block.type == "text"
    return block.text


def last_text(message: BetaMessage) -> str:
    """The text a message ends with."""
    block = message.content[-1]
    assert block.type == "text"
    return block.text


def error_of(error: APIStatusError) -> dict[str, Any]:
    """The `error` object an API answered with."""
    assert isinstance(error.body, dict)
    found: dict[str, Any] = error.body["error"]
    return found
