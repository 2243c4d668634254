"""The HTTP/1.1 readers: the same events however the bytes are cut, and a refusal of whatever is ambiguous."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.errors import ProtocolError, UnexpectedEnd
from qanat.net import http1_fields
from qanat.net.errors import HTTPViolation
from qanat.net.http1 import (
    BodyReceived,
    Framing,
    HTTPEvent,
    MessageEnded,
    MessageReader,
    RequestReader,
    RequestReceived,
    ResponseReader,
    ResponseReceived,
    encode_chunk,
    encode_last_chunk,
)
from qanat.net.http1_fields import Fields, encode_head, parse_fields, values

REQUEST = b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nX-Two:  a b \t\r\n"
GOOD_REQUESTS = {
    "no body": REQUEST + b"\r\n",
    "length": REQUEST + b"Content-Length: 5\r\n\r\nhello",
    "empty": REQUEST + b"Content-Length: 0\r\n\r\n",
    "chunked": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "trailers": REQUEST + b"Transfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\nSum: 1\r\nSum: 2\r\n\r\n",
}


def merged(events: list[HTTPEvent]) -> list[HTTPEvent]:
    """Events with neighbouring pieces of the body put together."""
    out: list[HTTPEvent] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, BodyReceived) and isinstance(last, BodyReceived):
            out[-1] = BodyReceived(last.data + event.data)
        else:
            out.append(event)
    return out


def feed(reader: MessageReader, data: bytes, cuts: list[int]) -> list[HTTPEvent]:
    events: list[HTTPEvent] = []
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(borders):
        reader.receive_data(data[start:end])
        events += reader.events_received()
    return merged(events)


@given(st.sampled_from(sorted(GOOD_REQUESTS)), st.lists(st.integers(0, 10_000), max_size=8))
def test_a_request_gives_the_same_events_however_it_is_cut(name: str, cuts: list[int]) -> None:
    data = GOOD_REQUESTS[name]
    assert feed(RequestReader(), data, cuts) == feed(RequestReader(), data, [])
    assert feed(RequestReader(), data, list(range(len(data)))) == feed(RequestReader(), data, [])


def test_a_request_is_read_as_it_was_written() -> None:
    head, *body = feed(RequestReader(), GOOD_REQUESTS["trailers"], [])
    headers = Fields(((b"Host", b"x"), (b"X-Empty", b""), (b"X-Two", b"a b \t"), (b"Transfer-Encoding", b"Chunked")))
    assert head == RequestReceived(b"POST", b"/a?b", b"1.1", headers, Framing.CHUNKED)
    assert body == [BodyReceived(b"x"), MessageEnded(((b"Sum", b"1"), (b"Sum", b"2")))]


def test_white_space_behind_a_value_is_kept_but_does_not_count() -> None:
    head = feed(RequestReader(), b"GET / HTTP/1.1\r\nMcp-Name: a \r\nContent-Length: 0 \r\n\r\n", [])[0]
    assert isinstance(head, RequestReceived)
    assert head.headers == ((b"Mcp-Name", b"a "), (b"Content-Length", b"0"))
    assert values(head.headers, b"mcp-name") == [b"a"]


def test_what_is_remembered_of_earlier_messages_changes_nothing() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept: b \r\nContent-Length: 0 \r\nX-Own: 1\r\n\r\n"
    heads = [feed(RequestReader(), request, [])[0] for _ in range(3)]
    assert heads[0] == heads[1] == heads[2]
    assert isinstance(heads[2], RequestReceived)
    assert values(heads[2].headers, b"accept") == [b"a", b"b"]
    assert heads[2].headers == (
        (b"Host", b"x"), (b"Accept", b"a"), (b"accept", b"b "), (b"Content-Length", b"0"), (b"X-Own", b"1"),
    )  # fmt: skip


def test_no_more_is_remembered_than_is_good_and_no_secret_at_all() -> None:
    for number in range(5000):
        parse_fields([b"Accept: %d" % number, b"Authorization: Bearer %d" % number])
    assert len(http1_fields._known_lines) <= 2048
    assert not [line for line in http1_fields._known_lines if line.startswith(b"Auth")]


def test_a_pipelined_request_waits_until_it_is_asked_for() -> None:
    reader = RequestReader()
    reader.receive_data(GOOD_REQUESTS["length"] + b"GET /next HTTP/1.1\r\nHost: y\r\n\r\n")
    assert isinstance(reader.events_received()[-1], MessageEnded)
    assert reader.waiting
    reader.next_message()
    first = reader.events_received()[0]
    assert isinstance(first, RequestReceived)
    assert first.target == b"/next"


AMBIGUOUS = {
    "both framings": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both framings, other order": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "the same length twice": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "a list of lengths": b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
    "a signed length": b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
    "a hexadecimal length": b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
    "a length with an underscore": b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
    "an empty length": b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "another coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
    "chunked and another coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked, misspelt": b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "chunked behind a vertical tab": b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "a folded first line": b"GET / HTTP/1.1\r\n X: a\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "one bare line feed": b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
    "a tab before the colon": b"GET / HTTP/1.1\r\nContent-Length\t: 5\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    "a name that is no token": b"GET / HTTP/1.1\r\nX(y): a\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nX\r\n\r\n",
    "two spaces in the request line": b"GET  / HTTP/1.1\r\n\r\n",
    "a tab in the request line": b"GET\t/ HTTP/1.1\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n\r\n",
    "HTTP/2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\n\r\n",
    "an empty line first": b"\r\nGET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a chunk extension": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
    "a signed chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with 0x": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size that overflows": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\n",
    "a chunk longer than its size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
    "a chunk size line with a bare line feed": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n",
    "a chunk that ends in a bare line feed": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
    "a space behind a chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
    "folded trailers": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("one_byte_at_a_time", [False, True])
def test_an_ambiguous_request_is_refused(name: str, one_byte_at_a_time: bool) -> None:
    data = AMBIGUOUS[name]
    with pytest.raises(HTTPViolation) as refused:
        feed(RequestReader(), data, list(range(len(data))) if one_byte_at_a_time else [])
    assert refused.value.answer == 400


@pytest.mark.parametrize(("data", "answer"), [
    (b"GET /" + b"a" * 17_000, 414),
    (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 70_000, 431),
    (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 201 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
])  # fmt: skip
def test_a_head_beyond_the_limits_is_refused_with_a_status_that_says_so(data: bytes, answer: int) -> None:
    with pytest.raises(HTTPViolation) as refused:
        feed(RequestReader(), data, [])
    assert refused.value.answer == answer


def read_response(data: bytes, method: bytes = b"GET", eof: bool = False) -> list[HTTPEvent]:
    reader = ResponseReader()
    reader.expect(method)
    reader.receive_data(data)
    if eof:
        reader.receive_eof()
    return reader.events_received()


def test_the_end_of_an_answer_depends_on_the_question() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    assert isinstance(read_response(head, b"HEAD")[-1], MessageEnded)
    assert len(read_response(head, b"GET")) == 1
    assert isinstance(read_response(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n")[-1], MessageEnded)
    assert isinstance(read_response(b"HTTP/1.1 204 No Content\r\n\r\n")[-1], MessageEnded)


def test_an_answer_without_length_ends_with_the_connection() -> None:
    events = read_response(b"HTTP/1.1 200\r\n\r\nabc", eof=True)
    assert events[1:] == [BodyReceived(b"abc"), MessageEnded()]
    head = events[0]
    assert isinstance(head, ResponseReceived)
    assert not head.keep_alive


def test_an_answer_cut_short_is_noticed() -> None:
    for rest in (b"Content-Length: 9\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
        with pytest.raises(UnexpectedEnd):
            read_response(b"HTTP/1.1 200 OK\r\n" + rest, eof=True)


def test_informational_answers_come_before_the_real_one() -> None:
    events = read_response(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert [event.status for event in events if isinstance(event, ResponseReceived)] == [103, 200]


@pytest.mark.parametrize(("version", "headers", "kept"), [
    (b"1.1", b"", True), (b"1.1", b"Connection: Close\r\n", False), (b"1.0", b"", False),
    (b"1.0", b"Connection: keep-alive\r\n", True),
])  # fmt: skip
def test_whether_a_connection_can_be_used_again(version: bytes, headers: bytes, kept: bool) -> None:
    head = read_response(b"HTTP/" + version + b" 200 OK\r\n" + headers + b"Content-Length: 0\r\n\r\n")[0]
    assert isinstance(head, ResponseReceived)
    assert head.keep_alive is kept


@given(st.binary(max_size=400), st.booleans())
def test_any_garbage_raises_only_protocol_errors(data: bytes, is_request: bool) -> None:
    reader: MessageReader = RequestReader() if is_request else ResponseReader()
    if isinstance(reader, ResponseReader):
        reader.expect(b"GET")
    try:
        reader.receive_data(data)
        reader.receive_eof()
    except ProtocolError:
        pass


@dataclass
class Witness:
    """What llhttp makes of a message."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


TOKENS = st.text("abcXYZ019-", min_size=1, max_size=8).map(str.encode)
VALUES = st.text("abc XYZ;,=/", max_size=12).map(lambda text: text.strip().encode())
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


@given(st.lists(st.tuples(st.just(b"X-").flatmap(lambda p: TOKENS.map(p.__add__)), VALUES), max_size=6), BODIES)
def test_what_we_write_llhttp_and_we_read_alike(headers: list[tuple[bytes, bytes]], pieces: list[bytes]) -> None:
    head = encode_head(b"POST /x HTTP/1.1", [*headers, (b"Transfer-Encoding", b"chunked")])
    data = head + b"".join(map(encode_chunk, pieces)) + encode_last_chunk()
    witness = Witness()
    httptools.HttpRequestParser(witness).feed_data(data)
    ours = feed(RequestReader(), data, [])
    assert isinstance(ours[0], RequestReceived)
    assert list(ours[0].headers) == witness.headers
    body = b"".join(event.data for event in ours if isinstance(event, BodyReceived))
    assert (body, isinstance(ours[-1], MessageEnded)) == (witness.body, witness.complete)
    assert body == b"".join(pieces)


def test_trailers_that_come_byte_by_byte_are_looked_at_once() -> None:
    reader = RequestReader()
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    for byte in b"X: " + b"a" * 60_000 + b"\r\n\r\n":  # from the start for each byte, this took most of a minute
        reader.receive_data(bytes((byte,)))
    *_, end = reader.events_received()
    assert end == MessageEnded(((b"X", b"a" * 60_000),))


def test_a_bare_line_feed_in_late_trailers_is_still_seen() -> None:
    reader = RequestReader()
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a")
    with pytest.raises(HTTPViolation):
        reader.receive_data(b"b\nY: c")


def heads_read(reader: MessageReader, *messages: bytes) -> list[HTTPEvent]:
    """The first event of each message."""
    heads = []
    for message in messages:
        reader.next_message()
        reader.receive_data(message)
        heads.append(reader.events_received()[0])
    return heads


def test_the_same_head_again_is_not_read_again_and_another_one_is() -> None:
    other = REQUEST.replace(b"Host: x", b"Host: y") + b"\r\n"
    first, second, third = heads_read(RequestReader(), REQUEST + b"\r\n", REQUEST + b"\r\n", other)
    assert first is second
    assert isinstance(third, RequestReceived)
    assert values(third.headers, b"host") == [b"y"]


def test_a_large_head_is_not_remembered() -> None:
    large = REQUEST + b"X: " + b"a" * 4096 + b"\r\n\r\n"
    first, second = heads_read(RequestReader(), large, large)
    assert first is not second
    assert first == second


def test_the_same_head_in_answer_to_another_method_is_another_answer() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    reader = ResponseReader()
    framings = []
    for method in (b"GET", b"GET", b"HEAD", b"GET"):
        reader.expect(method)
        reader.receive_data(answer if method == b"HEAD" else answer + b"ok")
        head, *_, end = reader.events_received()
        assert isinstance(head, ResponseReceived)
        assert isinstance(end, MessageEnded)
        framings.append(head.framing)
    assert framings == [Framing.LENGTH, Framing.LENGTH, Framing.NONE, Framing.LENGTH]


def test_the_same_informational_head_twice_does_not_end_the_answer() -> None:
    reader = ResponseReader()
    reader.expect(b"GET")
    reader.receive_data(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2 + b"HTTP/1.1 204 No Content\r\n\r\n")
    *heads, end = reader.events_received()
    assert [head.status for head in heads if isinstance(head, ResponseReceived)] == [103, 103, 204]
    assert isinstance(end, MessageEnded)
