"""How QUIC streams begin: read however they are cut, written as they are read, and agreed on by pycapnp."""

from __future__ import annotations

import random
from typing import Any

import capnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import ProtocolError, UnexpectedEnd
from qanat.tunnel.connection import RequestHead, ResponseHead, StreamKind
from qanat.tunnel.quic_heads import from_request, from_response, to_request, to_response
from qanat.wire.quic_stream import (
    DATA_SIGNATURE,
    PREAMBLE_SIZE,
    RPC_SIGNATURE,
    BytesReceived,
    ConnectRequest,
    ConnectResponse,
    ConnectType,
    RequestReader,
    ResponseReader,
    RPCStarted,
)
from tests.support.chunks import cut, feed, survives
from tests.support.requirements import requirement
from tests.support.vectors import load
from tests.wire.test_cloudflared_vectors import hear_control

SCHEMA = """
@0xb1c2d3e4f5061728;
struct Request { dest @0 :Text; type @1 :UInt16; metadata @2 :List(Entry); }
struct Response { error @0 :Text; metadata @1 :List(Entry); }
struct Entry { key @0 :Text; value @1 :Text; }
"""
TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40)
METADATA = st.lists(st.tuples(TEXT, TEXT), max_size=6).map(tuple)
REQUESTS = st.builds(ConnectRequest, TEXT, st.sampled_from(ConnectType), METADATA)
RESPONSES = st.builds(ConnectResponse, TEXT, METADATA)
CUTS = st.lists(st.integers(0, 2000), max_size=8)


def joined(events: list[Any]) -> list[Any]:
    """Events with neighbouring bytes put together."""
    head = [event for event in events if not isinstance(event, BytesReceived)]
    data = b"".join(event.data for event in events if isinstance(event, BytesReceived))
    return [*head, BytesReceived(data)] if data else head


@requirement("quic:stream-heads")
@given(REQUESTS, st.binary(max_size=60), CUTS)
def test_a_request_is_read_however_it_is_cut(message: ConnectRequest, body: bytes, cuts: list[int]) -> None:
    events, error = feed(RequestReader(), cut(message.encode() + body, cuts))
    assert error is None
    assert joined(events) == [message, *([BytesReceived(body)] if body else [])]


@requirement("quic:stream-heads")
@given(RESPONSES, st.binary(max_size=60), CUTS)
def test_an_answer_is_read_however_it_is_cut(message: ConnectResponse, body: bytes, cuts: list[int]) -> None:
    events, error = feed(ResponseReader(), cut(message.encode() + body, cuts))
    assert error is None
    assert joined(events) == [message, *([BytesReceived(body)] if body else [])]


@requirement("quic:stream-heads")
@given(st.binary(max_size=200), CUTS, st.booleans(), st.booleans())
def test_garbage_raises_only_protocol_errors(data: bytes, cuts: list[int], signed: bool, request: bool) -> None:
    signed_data = (DATA_SIGNATURE + b"01" if signed else b"") + data
    survives(RequestReader if request else ResponseReader, cut(signed_data, cuts))


@requirement("quic:stream-heads")
def test_a_mutated_head_raises_only_protocol_errors() -> None:
    whole = ConnectRequest("https://x/", ConnectType.HTTP, (("HttpMethod", "GET"), ("HttpHost", "x"))).encode()
    chance = random.Random(7)
    for _ in range(2_000):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        survives(RequestReader, [bytes(data)])


@given(CUTS)
def test_an_rpc_stream_is_told_apart_by_its_signature(cuts: list[int]) -> None:
    events, error = feed(RequestReader(), cut(RPC_SIGNATURE + b"messages", cuts))
    assert error is None
    assert joined(events) == [RPCStarted(), BytesReceived(b"messages")]
    assert feed(ResponseReader(), [RPC_SIGNATURE])[1] == "unknown stream signature"


def test_a_head_that_ends_early_is_an_unexpected_end() -> None:
    for size in range(PREAMBLE_SIZE + 9):
        reader = ResponseReader()
        reader.receive_data(ConnectResponse("", ()).encode()[:size])
        with pytest.raises(UnexpectedEnd):
            reader.receive_eof()


@requirement("quic:stream-heads")
def test_pycapnp_reads_what_we_write_and_we_read_what_it_writes(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("schema") / "quic.capnp"
    path.write_text(SCHEMA)
    schema = capnp.load(str(path))
    request = ConnectRequest("https://app.example/", ConnectType.WEBSOCKET, (("HttpMethod", "GET"), ("HttpHost", "x")))
    with schema.Request.from_bytes(request.encode()[PREAMBLE_SIZE:]) as theirs:
        assert (theirs.dest, theirs.type) == (request.dest, 1)
        assert [(entry.key, entry.value) for entry in theirs.metadata] == list(request.metadata)
    made = schema.Response.new_message(error="no", metadata=[{"key": "a", "value": "b"}])
    reader = ResponseReader()
    reader.receive_data(DATA_SIGNATURE + b"01" + made.to_bytes())
    assert reader.events_received() == [ConnectResponse("no", (("a", "b"),))]


@requirement("connector:interop")
@pytest.mark.parametrize("name", ["answer", "answer_chunked", "answer_repeated_headers", "unreachable", "websocket"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_what_cloudflared_answers(name: str, step: int) -> None:
    vector = load("quic", name)
    pieces = [vector.data[start : start + step] for start in range(0, len(vector.data), step)]
    events, error = feed(ResponseReader(), pieces)
    assert error is None
    assert [repr(event) for event in joined(events)] == list(vector.expected)


@requirement("connector:interop")
def test_what_cloudflared_says_on_its_control_stream() -> None:
    vector = load("quic", "control")
    assert hear_control(vector.data) == list(vector.expected)


HEADERS = (("Accept", "a"), ("X-Two", "1"), ("X-Two", "2"), ("X-Latin", "\xe9"))


@pytest.mark.parametrize(
    "head",
    [
        RequestHead(StreamKind.HTTP, "GET", "app.example", "/a?b=%20", HEADERS),
        RequestHead(StreamKind.HTTP, "GET", "app.example:1", "//odd//path", HEADERS),
        RequestHead(StreamKind.HTTP, "POST", "app.example", "/?", (("Content-Length", "3"),), has_body=True),
        RequestHead(StreamKind.WEBSOCKET, "GET", "app.example", "/ws", HEADERS),
        RequestHead(StreamKind.TCP, "", "192.0.2.1:22", ""),
    ],
)
def test_a_requests_head_survives_the_wire(head: RequestHead) -> None:
    assert from_request(to_request(head)) == head


def test_a_body_of_unknown_length_is_announced_as_chunked() -> None:
    message = to_request(RequestHead(StreamKind.HTTP, "POST", "x", "/", (), has_body=True))
    assert ("HttpHeader:Transfer-Encoding", "chunked") in message.metadata
    assert from_request(message).has_body


@pytest.mark.parametrize(
    ("dest", "path"),
    [("/only/path?q", "/only/path?q"), ("http://h", "/"), ("https://h?q=/", "/?q=/"), ("https://h/a//b", "/a//b")],
)
def test_the_path_of_a_destination_is_kept_byte_for_byte(dest: str, path: str) -> None:
    assert from_request(ConnectRequest(dest, ConnectType.HTTP)).path == path


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (ResponseHead(200, HEADERS), StreamKind.HTTP),
        (ResponseHead(101, HEADERS), StreamKind.WEBSOCKET),
        (ResponseHead(200), StreamKind.TCP),
        (ResponseHead(502, from_upstream=False), StreamKind.HTTP),
        (ResponseHead(502, from_upstream=False, rate_limited=True), StreamKind.HTTP),
    ],
)
def test_an_answers_head_survives_the_wire(head: ResponseHead, kind: StreamKind) -> None:
    assert from_response(to_response(head, kind), kind) == head


@pytest.mark.parametrize("status", ["", "20", "2000", "abc", "\xb2\xb2\xb2"])
def test_an_answer_without_a_status_is_refused(status: str) -> None:
    with pytest.raises(ProtocolError):
        from_response(ConnectResponse("", (("HttpStatus", status),)), StreamKind.HTTP)
