"""Tool policy: calls judged, lists filtered, in JSON and in event streams however they are cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.proxy.policy.inspect import BodyRefused, RPCMessage
from qanat.proxy.policy.tools import MAX_EVENT, EventStreamFilter, ToolPolicy

NO_DROP = ToolPolicy(deny=("drop*",))


def tool_list(*names: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": name} for name in names]}}).encode()


def names_in(document: bytes) -> list[str]:
    return [tool["name"] for tool in json.loads(document)["result"]["tools"]]


@pytest.mark.parametrize(
    ("policy", "name", "allowed"),
    [
        (ToolPolicy(), "anything", True),
        (ToolPolicy(allow=("search_*", "get")), "search_all", True),
        (ToolPolicy(allow=("search_*", "get")), "put", False),
        (ToolPolicy(allow=()), "get", False),
        (ToolPolicy(allow=("*",), deny=("delete_*",)), "delete_all", False),
        (ToolPolicy(deny=("Drop",)), "drop", True),
    ],
)
def test_deny_wins_and_a_present_allow_list_denies_the_rest(policy: ToolPolicy, name: str, allowed: bool) -> None:
    assert policy.allows_tool(name) is allowed


@pytest.mark.parametrize(("version", "status"), [(None, 200), ("2025-11-25", 200), ("2026-07-28", 400)])
def test_a_denied_call_looks_like_an_unknown_tool(version: str | None, status: int) -> None:
    with pytest.raises(BodyRefused) as caught:
        NO_DROP.check([RPCMessage("tools/call", "a", "drop")], version)
    refusal = caught.value
    assert (str(refusal), refusal.rpc_code, refusal.http_status, refusal.rpc_id) == (
        "Unknown tool: drop", -32602, status, "a",
    )  # fmt: skip


def test_one_denied_call_refuses_its_whole_batch() -> None:
    with pytest.raises(BodyRefused):
        NO_DROP.check([RPCMessage("tools/call", 1, "get"), RPCMessage("tools/call", 2, "drop")], None)


def test_a_denied_method_is_not_found() -> None:
    with pytest.raises(BodyRefused) as caught:
        ToolPolicy(deny_methods=("resources/*",)).check([RPCMessage("resources/read", 1, "x")], None)
    assert caught.value.rpc_code == -32601


def test_a_json_list_loses_the_denied_tools_and_keeps_its_cursor() -> None:
    text = json.dumps({"id": 1, "result": {"tools": [{"name": "get"}, {"name": "drop"}], "nextCursor": "c"}}).encode()
    filtered = json.loads(NO_DROP.filter_document(text))
    assert filtered["result"] == {"tools": [{"name": "get"}], "nextCursor": "c"}


def test_an_answer_with_nothing_to_leave_out_passes_byte_for_byte() -> None:
    text = b'{ "id":1 , "result":{"tools":[ {"name":"get"} ]}}'
    assert NO_DROP.filter_document(text) == text


def test_an_escaped_key_does_not_slip_through() -> None:
    text = b'{"id":1,"result":{"\\u0074ools":[{"name":"drop"}]}}'
    assert names_in(NO_DROP.filter_document(text)) == []


STREAM = (
    b": hello\n\n"
    b"event: message\nid: 4\ndata: " + tool_list("get", "drop") + b"\n\n"
    b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'
    b"data: \n\n"
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_an_event_stream_is_filtered_the_same_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    stream_filter = EventStreamFilter(NO_DROP)
    out = b"".join(stream_filter.feed(STREAM[a:b]) for a, b in itertools.pairwise(edges))
    assert b"drop" not in out
    assert b'{"name":"get"}' in out
    assert out.startswith(b": hello\n\nevent: message\nid: 4\ndata: ")
    assert out.endswith(b'notifications/progress"}\r\n\r\ndata: \n\n')


def test_an_event_goes_on_as_soon_as_it_is_complete() -> None:
    stream_filter = EventStreamFilter(NO_DROP)
    assert stream_filter.feed(b"data: {}\n") == b""
    assert stream_filter.feed(b"\n") == b"data: {}\n\n"
    assert stream_filter.feed(b"data: cut") == b""
    assert stream_filter.finish() == b""


def test_an_endless_event_is_refused() -> None:
    stream_filter = EventStreamFilter(NO_DROP)
    stream_filter.feed(b"x" * MAX_EVENT)
    with pytest.raises(BodyRefused):
        stream_filter.feed(b"x")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_byte_order_mark_does_not_hide_the_first_event(end: bytes) -> None:
    stream = b"\xef\xbb\xbfdata: " + tool_list("get", "drop") + end + end
    assert b"drop" not in EventStreamFilter(NO_DROP).feed(stream)


def test_a_crowd_of_tiny_events_passes_as_it_is() -> None:
    crowd = b":\n\n" * 200_000  # looked through once for each of them, this would stop the proxy for a quarter hour
    assert EventStreamFilter(NO_DROP).feed(crowd) == crowd
