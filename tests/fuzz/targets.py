"""What is fuzzed: each decoder, with samples of what it should read.

A target is run on mutated samples. Nothing but `ProtocolError` may come out, and where events are plain values, the
same ones must come out however the bytes are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from itertools import pairwise
from typing import Any

from qanat.client.upgrade import UpgradeExchange
from qanat.connector.http1 import AnswerReader
from qanat.edge.frames import FrameTracker
from qanat.edge.proxy_protocol import parse_proxy_header
from qanat.edge.request import UpgradeParser
from qanat.errors import ProtocolError, QanatError
from qanat.gateway.sse import EventStreamReader
from qanat.ids import TunnelUUID
from qanat.net import http1
from qanat.tunnel import wss
from qanat.tunnel.connection import RequestHead, StreamKind
from qanat.tunnel.quic_heads import from_request, from_response, to_request
from qanat.wire import cloudflared_headers as marks
from qanat.wire import quic_stream
from qanat.wire.capnp import Message, MessageDecoder, Struct, StructReader, encode
from qanat.wire.client_hello import read_client_hello
from qanat.wire.codec import Codec
from qanat.wire.control_stream import ControlClient, ControlServer, RegisterReceived
from qanat.wire.http2 import HTTP2Connection
from qanat.wire.registration import ConnectionDetails
from qanat.wire.rpc import RPCClient, RPCServer
from qanat.wire.token import TunnelToken, parse_token
from qanat.wire.websocket import WebSocketCodec, accept_key
from tests.support.chunks import exchange, feed
from tests.support.vectors import load
from tests.wire.test_control_stream import REGISTRATION
from tests.wire.test_http2_properties import CLIENT_SAID, SERVER_SAID, listening_client

Cuts = Sequence[int]


@dataclass(frozen=True)
class Target:
    """One decoder: `run` reads bytes, cut at the given places too, and raises for anything it should not do."""

    run: Callable[[bytes, Cuts], None]
    samples: tuple[bytes, ...]


def codec_target(make: Callable[[], Codec[Any]], *samples: bytes, compare: bool = True) -> Target:
    """A codec; without `compare` its events are not plain values."""

    def run(data: bytes, cuts: Cuts) -> None:
        whole = feed(make(), [data])
        edges = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
        split = feed(make(), [data[a:b] for a, b in pairwise(edges)])
        if compare and (canonical(whole[0]), bool(whole[1])) != (canonical(split[0]), bool(split[1])):
            raise AssertionError(f"cut at {edges}: {split}, whole: {whole}")

    return Target(run, samples)


def canonical(events: list[Any]) -> list[Any]:
    """Events with neighbouring pieces of payload joined, and empty pieces left out."""
    result: list[Any] = []
    for event in events:
        if isinstance(event, Message):
            result.append(event.segments)
        elif not _is_payload(event):
            result.append(event)
        elif result and _continues(result[-1], event):
            result[-1] = _with_payload(event, result[-1].data + event.data)
        elif event.data:
            result.append(event)
    return result


def _is_payload(event: Any) -> bool:
    return is_dataclass(event) and isinstance(getattr(event, "data", None), bytes)


def _with_payload(event: Any, data: bytes) -> Any:
    return replace(event, data=data)


def _continues(last: Any, event: Any) -> bool:
    return type(last) is type(event) and bool(_with_payload(last, b"") == _with_payload(event, b""))


def incremental_target(make: Callable[[], Callable[[bytes], object]], *samples: bytes) -> Target:
    """A reader that is fed: what it returns last, and whether it refuses, must not depend on the cuts."""

    def outcome(pieces: list[bytes]) -> object:
        feed_one, result = make(), None
        try:
            for piece in pieces:
                result = feed_one(piece)
                if result is not None:
                    break
        except QanatError as error:
            return type(error)
        return result

    def run(data: bytes, cuts: Cuts) -> None:
        edges = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
        whole, split = outcome([data]), outcome([data[a:b] for a, b in pairwise(edges)])
        if (whole is None) != (split is None):
            raise AssertionError(f"cut at {edges}: {split}, whole: {whole}")

    return Target(run, samples)


def whole_target(parse: Callable[[bytes], object], *samples: bytes) -> Target:
    """A parser that is shown all bytes so far, each time there are more."""

    def run(data: bytes, cuts: Cuts) -> None:
        for end in (*sorted(place % (len(data) + 1) for place in cuts), len(data)):
            with suppress(ProtocolError):
                parse(data[:end])

    return Target(run, samples)


def track_frames(data: bytes, cuts: Cuts) -> None:
    """The edge's frame tracker: where it stands must not depend on the cuts."""
    whole, split = FrameTracker(), FrameTracker()
    whole.feed(data)
    for a, b in pairwise([0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]):
        split.feed(data[a:b])
    assert (whole.at_boundary, whole.closed) == (split.at_boundary, split.closed)


def understand_heads(data: bytes, cuts: Cuts) -> None:
    """The heads of QUIC streams, as far as requests and answers are made of them."""
    readers: list[Codec[Any]] = [quic_stream.RequestReader(), quic_stream.ResponseReader()]
    for reader in readers:
        for event in feed(reader, [data])[0]:
            with suppress(ProtocolError):
                if isinstance(event, quic_stream.ConnectRequest):
                    from_request(event)
                if isinstance(event, quic_stream.ConnectResponse):
                    from_response(event, StreamKind.HTTP)


def understand_wss_answer(data: bytes) -> None:
    """What an edge, or a proxy before it, answers to an upgrade."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if found:
        wss._parse_answer(head, rest)


def _upgrade_answer() -> Callable[[bytes], object]:
    exchange = UpgradeExchange("wiki.example", bytes(16))

    def feed_one(data: bytes) -> object:
        exchange.receive_data(data)
        return exchange.events_received() or None

    return feed_one


def text_target(parse: Callable[[str], object], *samples: str) -> Target:
    """A parser of text."""

    def run(data: bytes, cuts: Cuts) -> None:
        with suppress(ProtocolError):
            parse(data.decode("latin-1"))

    return Target(run, tuple(sample.encode() for sample in samples))


def read_everything(data: bytes, cuts: Cuts) -> None:
    """Follow every pointer of a Cap'n Proto message, of whatever kind it may be."""
    decoder = MessageDecoder()
    with suppress(ProtocolError):
        decoder.receive_data(data)
    for message in decoder.events_received():
        with suppress(ProtocolError):
            _visit(message.root(), 0)


def _visit(reader: StructReader, depth: int) -> None:
    for index in range(4):
        for read in (reader.text, reader.data, reader.texts, reader.capability):
            with suppress(ProtocolError):
                read(index)
        if depth < 3:
            with suppress(ProtocolError):
                _visit(reader.struct(index), depth + 1)
            with suppress(ProtocolError):
                for item in reader.structs(index)[:3]:
                    _visit(item, depth + 1)


def _asking() -> RPCClient:
    client = RPCClient()
    client.call(1, 2, Struct(b"abc", ("text",)))
    return client


def _registering() -> ControlClient:
    client = ControlClient()
    client.register(REGISTRATION)
    return client


def _answers() -> bytes:
    client, server = _registering(), ControlServer()
    server.receive_data(client.data_to_send())
    [event] = server.events_received()
    assert isinstance(event, RegisterReceived)
    server.accept(event.question_id, ConnectionDetails(REGISTRATION.tunnel_uuid, "lab", True))
    return server.data_to_send()


def _websocket_samples() -> tuple[bytes, bytes]:
    client, server = WebSocketCodec(lambda: b"mask"), WebSocketCodec()
    for end in (client, server):
        end.send_payload(b"hello" * 40)
        end.send_ping(b"ping")
        end.send_payload(b"x" * 70_000)
    said = client.data_to_send(), server.data_to_send()
    exchange(client, server)
    return said


def _expecting() -> http1.ResponseReader:
    reader = http1.ResponseReader()
    reader.expect(b"GET")
    return reader


_CONTROL = load("rpc", "cloudflared_control").data
_FROM_CLIENT, _FROM_SERVER = _websocket_samples()
_REQUEST = to_request(RequestHead(StreamKind.HTTP, "POST", "app.example", "/a?b", (("A", "b"),), True)).encode()
_RESPONSE = quic_stream.ConnectResponse("", (("HttpStatus", "200"), ("HttpHeader:A", "b"))).encode()
_HTTP_REQUEST = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n"
_HTTP_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a\r\n\r\nhello"
_HTTP_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"

_UPGRADE = (
    b"GET /a HTTP/1.1\r\nHost: wiki.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_key("AAAAAAAAAAAAAAAAAAAAAA==").encode() + b"\r\n\r\n"
)
_REFUSED = (
    b'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 57\r\n\r\n{"error": {"code": "a", "hop": "edge", "message": "text"}}'
)
_PROXIED = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4))


TARGETS: dict[str, Target] = {
    "token": text_target(parse_token, TunnelToken("a", TunnelUUID(REGISTRATION.tunnel_uuid), b"secret").encode()),
    "serialised-headers": text_target(marks.parse_serialised_headers, "QQ:Yg;Qw:ZA"),
    "response-meta": text_target(marks.parse_meta, marks.ORIGIN_META, marks.RATE_LIMITED_META),
    "capnp": Target(read_everything, (_CONTROL, encode(REGISTRATION.encode()), _answers())),
    "capnp-framing": codec_target(MessageDecoder, _CONTROL, _answers()),
    "rpc-server": codec_target(RPCServer, _CONTROL, compare=False),
    "rpc-client": codec_target(_asking, _answers(), compare=False),
    "control-server": codec_target(ControlServer, _CONTROL),
    "control-client": codec_target(_registering, _answers()),
    "http2-server": codec_target(lambda: HTTP2Connection(False), CLIENT_SAID[:6_000]),
    "http2-client": codec_target(listening_client, SERVER_SAID[:6_000], load("http2", "cloudflared_session").data),
    "quic-heads": Target(understand_heads, (_REQUEST, _RESPONSE)),
    "wss-answer": whole_target(understand_wss_answer, _UPGRADED, _REFUSED),
    "quic-request": codec_target(quic_stream.RequestReader, _REQUEST),
    "quic-response": codec_target(quic_stream.ResponseReader, _RESPONSE),
    "websocket-server": codec_target(WebSocketCodec, _FROM_CLIENT[:3_000]),
    "websocket-client": codec_target(lambda: WebSocketCodec(lambda: b"mask"), _FROM_SERVER[:3_000]),
    "http1-request": codec_target(http1.RequestReader, _HTTP_REQUEST),
    "http1-response": codec_target(_expecting, _HTTP_ANSWER, _HTTP_CHUNKED),
    "connector-answer": codec_target(lambda: AnswerReader("GET"), _HTTP_ANSWER, _HTTP_CHUNKED),
    "client-hello": whole_target(read_client_hello, load("tls", "client_hello").data),
    "proxy-header": whole_target(parse_proxy_header, _PROXIED),
    "upgrade-request": incremental_target(lambda: UpgradeParser(4_096).feed, _UPGRADE),
    "upgrade-answer": incremental_target(_upgrade_answer, _UPGRADED, _REFUSED),
    "frame-tracker": Target(track_frames, (_FROM_CLIENT[:2_000], _FROM_SERVER[:2_000])),
    "event-stream": codec_target(
        EventStreamReader, b"event: a\ndata: b\r\ndata: c\n\n: comment\ndata: \xe2\x82\xac\n\n"
    ),
}
