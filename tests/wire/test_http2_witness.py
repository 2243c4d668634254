"""The `h2` library as second witness: it hears what we say as we meant it, in both roles, and we hear it."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanat.wire.http2 import HTTP2Connection, Settings
from qanat.wire.http2 import events as ours
from tests.support.http2 import GET, OK, POST
from tests.support.requirements import requirement


class Witness:
    """An `h2` connection that says what it heard in plain tuples."""

    def __init__(self, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding="latin-1")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.heard: list[tuple[Any, ...]] = []

    def data_to_send(self) -> bytes:
        return self.h2.data_to_send() or b""

    def receive_data(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._hear(event)

    def _hear(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                self.heard.append(("head", event.stream_id, tuple(map(tuple, event.headers))))
            case h2.events.InformationalResponseReceived():
                self.heard.append(("informational", event.stream_id, tuple(map(tuple, event.headers))))
            case h2.events.TrailersReceived():
                self.heard.append(("trailers", event.stream_id, tuple(map(tuple, event.headers))))
            case h2.events.DataReceived():
                self.heard.append(("data", event.stream_id, event.data))
                if event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.heard.append(("end", event.stream_id))
            case h2.events.StreamReset():
                self.heard.append(("reset", event.stream_id, int(event.error_code or 0)))
            case h2.events.PingAckReceived():
                self.heard.append(("ping", event.ping_data))
            case h2.events.ConnectionTerminated():
                self.heard.append(("goaway", event.last_stream_id, int(event.error_code or 0)))


class Ours:
    """Our connection, heard in the same words."""

    def __init__(self, client: bool) -> None:
        self.codec = HTTP2Connection(client, Settings(initial_window=100_000, connection_window=200_000))
        self.heard: list[tuple[Any, ...]] = []

    def data_to_send(self) -> bytes:
        return self.codec.data_to_send()

    def receive_data(self, data: bytes) -> None:
        self.codec.receive_data(data)
        for event in self.codec.events_received():
            match event:
                case ours.RequestReceived() | ours.ResponseReceived():
                    self.heard.append(("head", event.stream_id, event.headers))
                case ours.InformationalReceived():
                    self.heard.append(("informational", event.stream_id, event.headers))
                case ours.TrailersReceived():
                    self.heard.append(("trailers", event.stream_id, event.headers))
                case ours.DataReceived():
                    self.heard.append(("data", event.stream_id, event.data))
                    self.codec.acknowledge(event.stream_id, len(event.data))
                case ours.StreamEnded():
                    self.heard.append(("end", event.stream_id))
                case ours.StreamReset():
                    self.heard.append(("reset", event.stream_id, int(event.error_code or 0)))
                case ours.PingAcknowledged():
                    self.heard.append(("ping", event.payload))
                case ours.GoAwayReceived():
                    self.heard.append(("goaway", event.last_stream_id, int(event.error_code or 0)))


def talk(a: Ours | Witness, b: Ours | Witness) -> None:
    while True:
        to_b, to_a = a.data_to_send(), b.data_to_send()
        if not to_a and not to_b:
            return
        if to_b:
            b.receive_data(to_b)
        if to_a:
            a.receive_data(to_a)


def joined(heard: list[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    """By stream, with neighbouring data joined."""
    streams: dict[int, list[tuple[Any, ...]]] = {}
    for kind, stream, *rest in heard:
        story = streams.setdefault(stream if isinstance(stream, int) else 0, [])
        if kind == "data" and story and story[-1][0] == "data":
            story[-1] = ("data", story[-1][1] + rest[0])
        elif kind != "data" or rest[0]:
            story.append((kind, *rest) if isinstance(stream, int) else (kind, stream))
    return streams


def raw(headers: ours.Headers) -> list[tuple[bytes, bytes]]:
    """The witness would write text as UTF-8."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


names = st.sampled_from(["x-a", "x-b", "accept", "authorization", "x-long-name-that-is-new"])
values = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\xa0\x85"), max_size=200)
fields = st.lists(st.tuples(names, values), max_size=6).map(tuple)
messages = st.lists(st.tuples(fields, st.integers(0, 150_000), fields), min_size=1, max_size=5)


@requirement("wire:h2:witness")
@settings(max_examples=40)
@given(messages)
def test_the_witness_hears_our_requests(script: list[tuple[ours.Headers, int, ours.Headers]]) -> None:
    client, server = Ours(True), Witness(False)
    talk(client, server)
    expected = {}
    for head, size, trailers in script:
        stream = client.codec.open_stream((*POST, *head))
        client.codec.send_data(stream, b"x" * size)
        client.codec.end_stream(stream, trailers)
        story: list[tuple[Any, ...]] = [
            ("head", (*POST, *head)),
            ("data", b"x" * size),
            ("trailers", trailers),
            ("end",),
        ]
        expected[stream] = [part for part in story if part[0] in ("head", "end") or part[1]]
    talk(client, server)
    assert joined(server.heard) == expected


@requirement("wire:h2:witness")
@settings(max_examples=40)
@given(messages)
def test_we_hear_the_witness_answer_and_it_hears_us_ask(
    script: list[tuple[ours.Headers, int, ours.Headers]],
) -> None:
    client, server = Witness(True), Ours(False)
    talk(client, server)
    asked, answered = {}, {}
    for number, (head, size, trailers) in enumerate(script):
        stream = 2 * number + 1
        client.h2.send_headers(stream, raw((*GET, *head)), end_stream=True)
        talk(client, server)
        asked[stream] = [("head", (*GET, *head)), ("end",)]
        server.codec.send_headers(stream, ((":status", "103"),))
        server.codec.send_headers(stream, (*OK, *head))
        server.codec.send_data(stream, b"y" * size)
        server.codec.end_stream(stream, trailers)
        story: list[tuple[Any, ...]] = [
            ("informational", ((":status", "103"),)),
            ("head", (*OK, *head)),
            ("data", b"y" * size),
            ("trailers", trailers),
            ("end",),
        ]
        answered[stream] = [part for part in story if part[0] in ("head", "end", "informational") or part[1]]
    talk(client, server)
    assert joined(server.heard) == asked
    assert joined(client.heard) == answered


@requirement("wire:h2:witness")
@pytest.mark.parametrize("we_are_client", [True, False])
def test_pings_resets_and_goodbyes_mean_the_same(we_are_client: bool) -> None:
    us, them = Ours(we_are_client), Witness(not we_are_client)
    talk(us, them)
    if we_are_client:
        stream = us.codec.open_stream(POST)
    else:
        stream = 1
        them.h2.send_headers(stream, POST)
    talk(us, them)
    us.codec.ping(b"abcdefgh")
    them.h2.ping(b"12345678")
    talk(us, them)
    us.codec.reset_stream(stream, 8)
    talk(us, them)
    them.h2.close_connection(0)
    talk(us, them)
    assert ("ping", b"abcdefgh") in us.heard
    assert ("ping", b"12345678") in them.heard
    assert ("reset", stream, 8) in them.heard
    assert us.heard[-1][0] == "goaway"
    assert us.heard[-1][2] == 0
