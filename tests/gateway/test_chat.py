"""Chat-completions streams become messages, and histories become chats: the pure half."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from qanat.gateway.chat_request import to_chat
from qanat.gateway.chat_stream import ChatStream
from qanat.gateway.errors import APIError
from qanat.gateway.turn import INVALID
from tests.support.chat import USAGE, Block, call, content, stop
from tests.support.gateway import text, use
from tests.support.requirements import requirement


def blocks(*chunks: Block | None) -> tuple[list[Block], str]:
    """The content blocks a stream adds up to, and its stop reason."""
    stream = ChatStream("m", iter(f"toolu_{number}" for number in range(9)).__next__)
    events = [event for chunk in chunks for event in stream.receive(chunk)] + stream.finish(1)
    content: list[Block] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(content)
            content.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                content[-1]["text"] += delta["text"]
            else:
                content[-1]["input"] = json.loads(delta["partial_json"])
    ends = [event for event in events if event["type"] == "message_delta"]
    return content, ends[0]["delta"]["stop_reason"]


@requirement("messages:33")
def test_calls_arrive_in_many_shapes_and_mean_the_same() -> None:
    expected = [use("wiki_search", {"q": "é"}, "toolu_0")]
    shapes: dict[str, Sequence[Block]] = {
        "pieces": [call("", "wiki_search", index=0, id="c1"), call('{"q": "\\u0', index=0), call('0e9"}', index=0)],
        "one chunk": [call('{"q": "é"}', "wiki_search", index=0, id="c1")],
        "name repeated": [call('{"q":', "wiki_search", index=0), call('"é"}', "wiki_search", index=0)],
        "no index": [call('{"q":', "wiki_search", id="c1"), call('"é"}', id="c1")],
        "neither": [call('{"q":', "wiki_search"), call('"é"}')],
        "an object": [call(None, "wiki_search", index=0)],
    }
    shapes["an object"][0]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] = {"q": "é"}
    for chunks in shapes.values():
        for reason in ("tool_calls", "function_call", "stop"):
            assert blocks(*chunks, stop(reason), USAGE) == (expected, "tool_use")


@requirement("messages:33")
def test_calls_that_all_have_the_same_index_stay_apart_by_their_ids() -> None:
    whole = [call('{"q":"a"}', "one", index=0, id="c1"), call('{"q":"b"}', "two", index=0, id="c2")]
    pieces = [whole[0], call("", "two", index=0, id="c2"), call('{"q":', index=0), call('"b"}', index=0)]
    changing = [call("", "one", index=0, id="r1"), call('{"q":', index=0, id="r2"), call('"a"}', index=0, id="r3")]
    for chunks in (whole, pieces):
        content, _ = blocks(*chunks, stop("stop"))
        assert [(block["name"], block["input"]) for block in content] == [("one", {"q": "a"}), ("two", {"q": "b"})]
    content, _ = blocks(*changing, stop("stop"))
    assert [(block["name"], block["input"]) for block in content] == [("one", {"q": "a"})]


@requirement("messages:33")
def test_two_calls_without_index_or_id_stay_two() -> None:
    content, _ = blocks(call('{"q":"a"}', "one"), call('{"q":"b"}', "two"), stop("stop"))
    assert [(block["name"], block["input"]) for block in content] == [("one", {"q": "a"}), ("two", {"q": "b"})]


def test_text_comes_before_the_calls_that_follow_it() -> None:
    content_blocks, reason = blocks(
        content(""), content("Let me "), content("see."), call("{}", "f", index=0), stop("stop")
    )
    assert [block["type"] for block in content_blocks] == ["text", "tool_use"]
    assert (content_blocks[0]["text"], reason) == ("Let me see.", "tool_use")


@requirement("messages:33")
def test_broken_arguments_become_an_empty_input_and_a_note() -> None:
    for arguments in ('{"q": ', "[1]", "nonsense", '{"q": NaN}', '{"q": ' + "[" * 2000 + "]" * 2000 + "}"):
        content, _ = blocks(call(arguments, "f", index=0), stop("tool_calls"))
        assert content[0]["input"] == {}
        assert INVALID in content[0]


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")]
)
def test_finish_reasons_map_to_stop_reasons(reason: str, expected: str) -> None:
    assert blocks(content("x"), stop(reason)) == ([text("x")], expected)


def test_a_stream_that_ends_without_a_reason_is_an_error() -> None:
    with pytest.raises(APIError, match="ended early"):
        blocks(content("x"))


def test_a_call_without_a_reason_counts_only_when_the_server_says_that_it_is_done() -> None:
    begun = call("", "wiki_delete_pages", index=0, id="c1")
    with pytest.raises(APIError, match="ended early"):
        blocks(begun)
    assert blocks(begun, None) == ([use("wiki_delete_pages", {}, "toolu_0")], "tool_use")


@requirement("messages:34")
def test_a_history_becomes_chat_messages() -> None:
    body = {
        "model": "m",
        "max_tokens": 5,
        "system": [text("Be brief."), text("Be kind.")],
        "messages": [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": [text("Hm."), use("wiki_search", {"q": "x"})]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_01abc", "content": [text("no")], "is_error": True}
                ],
            },
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, text("Sorry.")]},
            {"role": "user", "content": [text("Two"), image()]},
        ],
        "tools": [{"name": "wiki_search", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
    }
    chat = to_chat(body)
    assert [message["role"] for message in chat["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant", "user"),
    ]
    assert chat["messages"][0]["content"] == "Be brief.\n\nBe kind."
    function = {"name": "wiki_search", "arguments": '{"q": "x"}'}
    assert chat["messages"][2]["tool_calls"] == [{"id": "toolu_01abc", "type": "function", "function": function}]
    assert chat["messages"][3] == {"role": "tool", "tool_call_id": "toolu_01abc", "content": "Error: no"}
    assert chat["messages"][5]["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert (chat["tool_choice"], chat["parallel_tool_calls"], chat["stop"]) == ("required", False, ["END"])
    assert chat["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert "metadata" not in chat


def image() -> Block:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"container": "c"},
        {"fallbacks": []},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": "f"}]}]},
    ],
)
def test_what_only_anthropic_models_can_do_is_refused(changes: Block) -> None:
    with pytest.raises(APIError) as caught:
        to_chat({"model": "m", "max_tokens": 5, "messages": [], **changes})
    assert caught.value.http_status == 400
