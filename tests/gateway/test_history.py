"""Conversations with MCP blocks, as models without MCP get to see them."""

from __future__ import annotations

from typing import Any

import pytest

from qanat.gateway.errors import APIError
from qanat.gateway.history import pending_calls, to_upstream
from tests.support.gateway import text, use
from tests.support.requirements import requirement

Block = dict[str, Any]


def call(name: str, **extra: Any) -> Block:
    return {"type": "mcp_tool_use", "id": f"mcptoolu_{name}", "name": name, "server_name": "s", "input": {}, **extra}


def result(name: str, said: str = "r", **extra: Any) -> Block:
    return {"type": "mcp_tool_result", "tool_use_id": f"mcptoolu_{name}", "content": [text(said)], **extra}


def user(*blocks: Block) -> Block:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Block) -> Block:
    return {"role": "assistant", "content": list(blocks)}


def shape(messages: list[Block]) -> list[tuple[str, list[str]]]:
    def name(block: Block) -> str:
        return str(block.get("text") or block.get("id") or block.get("tool_use_id") or block["type"])

    return [(message["role"], [name(block) for block in message["content"]]) for message in messages]


@requirement("messages:8")
def test_each_run_of_results_closes_an_assistant_message() -> None:
    history = [user(text("q")), assistant(text("1"), call("a"), call("b"), result("a"), result("b"), text("2"))]
    assert shape(to_upstream(history)) == [
        ("user", ["q"]),
        ("assistant", ["1", "toolu_a", "toolu_b"]),
        ("user", ["toolu_a", "toolu_b"]),
        ("assistant", ["2"]),
    ]


def test_results_at_the_end_join_the_next_user_message_and_come_first() -> None:
    history = [user(text("q")), assistant(call("a"), result("a")), user(text("next"))]
    assert shape(to_upstream(history))[-1] == ("user", ["toolu_a", "next"])


@requirement("messages:19")
def test_results_of_a_mixed_turn_are_ordered_as_their_uses() -> None:
    client = {"type": "tool_result", "tool_use_id": "toolu_c", "content": "x"}
    history = [user(text("q")), assistant(call("a"), use("c", id="toolu_c"), call("b")), user(text("and"), client)]
    history.append(assistant(result("b"), result("a"), text("done")))
    assert shape(to_upstream(history)) == [
        ("user", ["q"]),
        ("assistant", ["toolu_a", "toolu_c", "toolu_b"]),
        ("user", ["toolu_a", "toolu_c", "toolu_b", "and"]),
        ("assistant", ["done"]),
    ]


def test_thinking_stays_in_place_byte_for_byte_and_listings_vanish() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "sig=="}
    listing = {"type": "mcp_tool_listing", "mcp_server_name": "s", "tools": []}
    history = [user(text("q")), assistant(listing, thinking, call("a"), result("a"), thinking, text("x"))]
    translated = to_upstream(history)
    assert translated[1]["content"][0] == thinking
    assert translated[3]["content"] == [thinking, text("x")]


def test_thinking_that_was_cut_off_is_not_sent_back() -> None:
    cut = {"type": "thinking", "thinking": "hm", "signature": ""}
    history = [user(text("q")), assistant(cut, call("a"), result("a"), cut)]
    assert shape(to_upstream(history)) == [
        ("user", ["q"]),
        ("assistant", ["thinking", "toolu_a"]),
        ("user", ["toolu_a"]),
    ]
    assert shape(to_upstream([user(text("q")), assistant(text("x"), cut), assistant(cut)]))[1:] == [
        ("assistant", ["x"])
    ]


def test_cache_control_moves_and_empty_results_are_an_empty_string() -> None:
    mark = {"type": "ephemeral"}
    empty = {**result("a", cache_control=mark), "content": []}
    history = [user(text("q")), assistant(call("a", cache_control=mark), empty)]
    translated = to_upstream(history)
    assert translated[1]["content"][0]["cache_control"] == mark
    assert translated[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_a", "content": "", "cache_control": mark}
    ]


def test_two_messages_of_one_role_become_one() -> None:
    history = [user(text("q")), assistant(call("a")), assistant(result("a"), text("x"))]
    assert shape(to_upstream(history)) == [
        ("user", ["q"]),
        ("assistant", ["toolu_a"]),
        ("user", ["toolu_a"]),
        ("assistant", ["x"]),
    ]


def test_calls_without_results_are_pending_in_the_last_turn_only() -> None:
    assert pending_calls([user(text("q")), assistant(call("a"), result("a"), call("b"))]) == [call("b")]
    assert pending_calls([user(text("q")), assistant(call("a")), user(text("go on"))]) == [call("a")]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([user(text("q")), assistant(result("a"))], "has no mcp_tool_use"),
        ([assistant(call("a")), user(text("q")), assistant(text("x"))], "has no mcp_tool_result"),
        ([assistant(call("a")), user({"type": "tool_result", "tool_use_id": "mcptoolu_a"})], "not accepted"),
        ([assistant(call("a"), use("c"))], "without tool_result"),
        ([user(call("a"))], "in an assistant message"),
        ([assistant({**call("a"), "input": None})], "mcp_tool_use needs"),
        ([assistant(call("a"), {**result("a"), "content": [{"type": "image"}]})], "mcp_tool_result needs"),
        ([assistant(call("a"), result("a"), result("a"))], "has no mcp_tool_use"),
    ],
)
def test_histories_that_do_not_pair_up_are_refused(history: list[Block], message: str) -> None:
    with pytest.raises(APIError, match=message):
        pending_calls(history)
