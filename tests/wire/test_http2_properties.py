"""HTTP/2 under Hypothesis: bytes cut anywhere, garbage, corrupted conversations, and random ones against the truth."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from qanat.wire.http2 import HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.http2.frames import FrameType, frame, window_update
from tests.support.chunks import cut, exchange, feed, survives
from tests.support.http2 import GET, OK, OPENING, POST, frames_of, headers_frame, settings_frame
from tests.support.requirements import requirement

EXAMPLES = settings(max_examples=60)


def conversation() -> tuple[bytes, bytes]:
    """What a client and a server say to each other in a conversation with a bit of everything."""
    client, server = HTTP2Connection(True), HTTP2Connection(False)
    said: tuple[list[bytes], list[bytes]] = ([], [])

    def talk() -> None:
        for _ in range(4):
            a, b = client.data_to_send(), server.data_to_send()
            said[0].append(a)
            said[1].append(b)
            server.receive_data(a)
            client.receive_data(b)
            for event in server.events_received():
                if isinstance(event, h2.DataReceived):
                    server.acknowledge(event.stream_id, len(event.data))

    first = client.open_stream(GET, end_stream=True)
    second = client.open_stream((*POST, ("content-length", "70000")))
    client.send_data(second, b"x" * 70_000)
    client.end_stream(second)
    talk()
    third = client.open_stream((*GET, *((f"x-{n}", "y" * 500) for n in range(50))))
    client.ping(b"12345678")
    client.reset_stream(third)
    server.send_headers(first, OK)
    server.send_data(first, b"hello")
    server.end_stream(first, (("a", "b"),))
    server.send_headers(second, OK, end_stream=True)
    talk()
    server.go_away(debug=b"bye")
    talk()
    return b"".join(said[0]), b"".join(said[1])


CLIENT_SAID, SERVER_SAID = conversation()


def listening_client() -> HTTP2Connection:
    client = HTTP2Connection(True)
    client.open_stream(GET, end_stream=True)
    client.open_stream(POST)
    client.open_stream(GET)
    return client


@requirement("wire:chunks")
@EXAMPLES
@given(st.lists(st.integers(0, 10**6), max_size=30))
def test_cutting_changes_nothing_for_the_server(cuts: list[int]) -> None:
    whole, split = HTTP2Connection(False), HTTP2Connection(False)
    assert feed(split, cut(CLIENT_SAID, cuts)) == feed(whole, [CLIENT_SAID])
    assert split.data_to_send() == whole.data_to_send()


def joined(events: list[h2.Event]) -> list[h2.Event]:
    """With the payload of each frame in one piece: it is handed on as it comes."""
    whole: list[h2.Event] = []
    for event in events:
        last = whole[-1] if whole else None
        if isinstance(event, h2.DataReceived) and isinstance(last, h2.DataReceived):
            whole[-1] = h2.DataReceived(event.stream_id, last.data + event.data)
        else:
            whole.append(event)
    return whole


@requirement("wire:chunks")
@EXAMPLES
@given(st.lists(st.integers(0, 10**6), max_size=30))
@example([424])
def test_cutting_changes_nothing_for_the_client(cuts: list[int]) -> None:
    whole, split = listening_client(), listening_client()
    events, error = feed(split, cut(SERVER_SAID, cuts))
    assert (joined(events), error) == feed(whole, [SERVER_SAID])
    assert split.data_to_send() == whole.data_to_send()


def test_byte_by_byte_is_the_same_too() -> None:
    said = CLIENT_SAID[:2_000]
    whole, split = HTTP2Connection(False), HTTP2Connection(False)
    assert feed(split, [bytes([byte]) for byte in said]) == feed(whole, [said])


frames = st.builds(
    frame,
    st.sampled_from(list(FrameType)),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x2C, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1]),
    st.one_of(st.binary(max_size=40), st.just(headers_frame(1, GET)[9:]), st.just(headers_frame(1, OK)[9:])),
)


@requirement("wire:garbage")
@settings(max_examples=200)
@given(st.lists(st.one_of(frames, st.binary(max_size=30)), max_size=12))
def test_garbage_raises_only_protocol_error(chunks: list[bytes]) -> None:
    survives(lambda: HTTP2Connection(False), chunks)
    survives(lambda: HTTP2Connection(False), [OPENING, *chunks])
    survives(listening_client, [settings_frame(), *chunks])


@requirement("wire:garbage")
@settings(max_examples=150)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=12))
def test_a_corrupted_conversation_raises_only_protocol_error(place: int, junk: bytes) -> None:
    for make, said in ((lambda: HTTP2Connection(False), CLIENT_SAID), (listening_client, SERVER_SAID)):
        data = bytearray(said)
        place %= len(data)
        data[place : place + len(junk)] = junk
        survives(make, [bytes(data)])


class Truth:
    """What was written on one stream, what arrived, and how it ended."""

    def __init__(self) -> None:
        self.written, self.arrived = bytearray(), bytearray()
        self.unread = 0
        self.ended = False


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "read", "end", "reset", "talk", "hold", "release"]),
        st.integers(0, 5),
        st.integers(0, 90_000),
    ),
    max_size=40,
)


@requirement("wire:h2:windows", "wire:round-trip")
@EXAMPLES
@given(steps, st.booleans())
def test_whatever_is_written_arrives_once_in_order_and_within_the_windows(
    script: list[tuple[str, int, int]], capped: bool
) -> None:
    client, server = HTTP2Connection(True, capped=capped), HTTP2Connection(False, Settings(max_concurrent_streams=50))
    truths: dict[int, Truth] = {}

    def talk() -> None:
        _, heard = exchange(client, server)
        for event in heard:
            if isinstance(event, h2.DataReceived):
                truths[event.stream_id].arrived += event.data
                truths[event.stream_id].unread += len(event.data)
            elif isinstance(event, h2.StreamEnded):
                truths[event.stream_id].ended = True

    def read(stream: int) -> None:
        server.acknowledge(stream, truths[stream].unread)
        truths[stream].unread = 0

    for action, which, size in script:
        stream = list(truths)[which % len(truths)] if truths else 0
        match action:
            case "open":
                truths[client.open_stream(POST)] = Truth()
            case "write" if truths and not truths[stream].ended:
                payload = bytes([which]) * size
                before = client.queued(stream)
                client.send_data(stream, payload)
                if stream in client._streams and not client._streams[stream].end_queued:
                    truths[stream].written += payload
                assert client.queued(stream) <= before + size
            case "read" if truths:
                read(stream)
            case "end" if truths:
                client.end_stream(stream)
            case "reset" if truths:
                client.reset_stream(stream)
                talk()
                read(stream)
                del truths[stream]
            case "hold":
                client.held = True
            case "release":
                client.held = False
            case "talk":
                talk()
        for truth in truths.values():
            assert truth.unread <= 65_535 + 65_535
    client.held = False
    for _ in range(200):
        talk()
        for stream in truths:
            read(stream)
    for truth in truths.values():
        assert truth.arrived == truth.written
    assert not any(client.queued(stream) for stream in truths)


grants = st.lists(
    st.tuples(
        st.sampled_from(["settings", "credit", "credit all", "write", "take"]),
        st.sampled_from([1, 3, 5]),
        st.one_of(st.integers(0, 50), st.integers(0, 90_000)),
    ),
    max_size=40,
)


@requirement("wire:h2:windows")
@settings(max_examples=200)
@given(grants, st.booleans())
def test_however_a_peer_moves_its_windows_no_byte_leaves_without_one(
    script: list[tuple[str, int, int]], capped: bool
) -> None:
    client = HTTP2Connection(True, capped=capped)
    client.receive_data(settings_frame())
    streams = [client.open_stream(POST) for _ in range(3)]
    written, sent, granted = dict.fromkeys(streams, 0), dict.fromkeys(streams, 0), dict.fromkeys(streams, 0)
    initial = whole = 65_535
    most = dict.fromkeys(streams, initial)
    """What each stream was ever allowed in all: bytes framed before a window shrank may leave after that."""

    def take() -> None:
        while data := client.data_to_send():
            for kind, _, stream, payload in frames_of(data):
                if kind == FrameType.DATA:
                    sent[stream] += len(payload)
        assert all(sent[stream] <= most[stream] for stream in streams)
        assert sum(sent.values()) <= whole

    for action, stream, size in script:
        match action:
            case "settings":
                client.receive_data(settings_frame((4, size)))
                initial = size
            case "credit":
                client.receive_data(window_update(stream, size + 1))
                granted[stream] += size + 1
            case "credit all":
                client.receive_data(window_update(0, size + 1))
                whole += size + 1
            case "write":
                client.send_data(stream, b"x" * size)
                written[stream] += size
            case "take":
                take()
        most = {each: max(most[each], initial + granted[each]) for each in streams}
    client.receive_data(window_update(0, 2**24))
    whole += 2**24
    for _ in range(100):  # the cap lets a stream send so much, and then waits for credit
        for stream in streams:
            client.receive_data(window_update(stream, 2**17))
            most[stream] += 2**17
        take()
    assert sent == written
