"""The body reader: what it understands, and that it refuses whatever two parsers could read differently."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp.shared.inbound import encode_header_value

from qanat.proxy.policy.inspect import BodyRefused, RPCMessage, check_headers, read_messages


def call(name: str, **arguments: object) -> bytes:
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    return json.dumps(body).encode()


def test_a_tool_call_is_read_with_its_name_and_arguments() -> None:
    assert read_messages(call("search", q="x")) == [RPCMessage("tools/call", 7, "search", {"q": "x"})]


def test_every_message_of_a_batch_is_read() -> None:
    names = [message.name for message in read_messages(b"[" + call("a") + b"," + call("b") + b"]")]
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"method":"tools/call","params":{"name":"ok","name":"drop"}}',
        b'{"method":"tools/call","method":"ping"}',
        b'{"method":"tools/call","params":{"name":7}}',
        b'{"method":"tools/call"}',
        b'{"method":5}',
        b'{"id":true,"method":"ping"}',
        b'{"id":NaN,"method":"ping"}',
        b'{"method":"p\xff"}',
        b'{"a":' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 100_000,
        '{"method":"ping"}'.encode("utf-16"),
    ],
)
def test_an_ambiguous_body_is_refused(body: bytes) -> None:
    with pytest.raises(BodyRefused):
        read_messages(body)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_a_refusal(body: bytes) -> None:
    with contextlib.suppress(BodyRefused):
        read_messages(body)


def test_brackets_inside_strings_are_no_nesting() -> None:
    assert read_messages(call("search", q="[" * 1000 + '\\"' + "{" * 1000))[0].name == "search"


@pytest.mark.parametrize(
    ("methods", "names"),
    [(["tools/list"], []), (["tools/call", "tools/call"], []), ([], ["other"]), (["tools/call"], ["search", "search"])],
)
def test_headers_that_disagree_with_the_body_are_refused(methods: list[str], names: list[str]) -> None:
    message = read_messages(call("search"))[0]
    with pytest.raises(BodyRefused) as caught:
        check_headers(message, methods, names)
    assert (caught.value.rpc_code, caught.value.http_status, caught.value.rpc_id) == (-32020, 400, 7)


def test_headers_that_agree_or_are_absent_pass() -> None:
    message = read_messages(call("search"))[0]
    check_headers(message, ["tools/call"], ["search"])
    check_headers(message, [], [])


@given(st.text(alphabet=st.characters(codec="utf-8")))
@example(" padded ")
@example("Größe")
@example("=?base64?U2l6ZQ==?=")
@example("=?base64??=")
def test_names_are_compared_as_clients_encode_them(name: str) -> None:
    message = read_messages(call(name))[0]
    check_headers(message, [], [encode_header_value(name)])


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Größe", "=?base64?R3LDtsOfZQ?="),
        ("Größe", "=?base64?R3LDtsOfZR==?="),
        ("Größe", "=?base64?R3LDtsOf ZQ==?="),
        ("Größe", "=?BASE64?R3LDtsOfZQ==?="),
        ("Größe", "=?base64?R3L2?="),
        ("Größe", "=?base64?Größe?="),
        ("Größe", "GrÃ¶Ã\x9fe"),
        ("Gr", "=?base64?R3L2?="),
        ("=?base64?U2l6ZQ==?=", "=?base64?U2l6ZQ==?="),
        ("=?base64?!?=", "=?base64?!?="),
        ("drop", "=?base64?Z2V0?="),
        ("\ud800", "=?base64?7aCA?="),
    ],
)
def test_an_encoded_name_that_others_might_read_otherwise_agrees_with_no_body(name: str, header: str) -> None:
    with pytest.raises(BodyRefused, match="Mcp-Name does not match"):
        check_headers(read_messages(call(name))[0], [], [header])
    with pytest.raises(BodyRefused, match="Mcp-Name does not match"):
        check_headers(read_messages(b'{"id":1,"method":"ping"}')[0], [], [header])


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":1,"method":"ping","Method":"tools/call","params":{"name":"drop"}}',
        b'{"id":1,"METHOD":"tools/call","params":{"name":"drop"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"get","Name":"drop"}}',
        '{"id":1,"method":"tools/call","params":{"name":"get"},"param\u017f":{"name":"drop"}}'.encode(),
    ],
)
def test_a_member_that_a_lenient_parser_would_take_for_another_is_refused(body: bytes) -> None:
    with pytest.raises(BodyRefused, match="wrong case"):
        read_messages(body)


def test_arguments_may_be_spelled_as_they_like() -> None:
    assert read_messages(call("search", Query="a", query="b"))[0].arguments == {"Query": "a", "query": "b"}


def test_a_body_of_quotes_that_never_close_costs_no_more_than_its_length() -> None:
    with pytest.raises(BodyRefused, match="Parse error"):
        read_messages(b'\\"' * 1_000_000)  # tried at each quote anew, this would stop the proxy for hours
