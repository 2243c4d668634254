"""The tunnel over HTTP/2 as its bytes: what only this carrier has, and peers that misbehave."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qanat.errors import ProtocolError
from qanat.net.memory import MemoryTransport, memory_pair
from qanat.tunnel import control, http2_link
from qanat.tunnel.connection import (
    ConnectionLost,
    ConnectionUnavailable,
    Registered,
    RegistrationRefused,
    RegistrationRequest,
    RequestHead,
    ResponseHead,
    StreamReset,
)
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeHTTP2, EdgeStream
from qanat.tunnel.http2_link import KeepAlive, Link
from qanat.wire import cloudflared_headers as marks
from qanat.wire.control_stream import (
    ControlClient,
    ControlServer,
    LocalConfigurationReceived,
    RegisterReceived,
    UnregisterReceived,
)
from qanat.wire.http2 import ErrorCode, HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.http2.frames import FrameType, window_update
from qanat.wire.registration import ConfigurationResult, ConnectionDetails, RegisterConnection
from tests.support.http2 import GET, OK, POST, frames_of
from tests.support.requirements import requirement
from tests.support.tunnel import (
    ACCEPTED,
    TIMEOUT,
    Admission,
    Client,
    Tunnel,
    Upstream,
    Upstreams,
    http_request,
    registration,
    tunnel,
    websocket_request,
)

CLOUDFLARED = Settings(initial_window=1024 * 1024, connection_window=1024 * 1024, max_concurrent_streams=250)


class Peer(asyncio.Protocol):
    """The other end, by hand: an HTTP/2 codec on a transport, whose events are collected."""

    transport: asyncio.Transport

    def __init__(self, codec: HTTP2Connection, answer_pings: bool = True) -> None:
        self.codec, self.answers = codec, answer_pings
        self.heard: asyncio.Queue[h2.Event] = asyncio.Queue()
        self._pings_wanted, self._pinged = 2**31, asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, MemoryTransport)
        self.transport = transport
        self.flush()

    def data_received(self, data: bytes) -> None:
        if not self.answers:
            return
        self._pings_wanted -= sum(kind == FrameType.PING for kind, *_ in frames_of(data))
        if self._pings_wanted <= 0:
            self._pinged.set()
        self.codec.receive_data(data)
        for event in self.codec.events_received():
            self.heard.put_nowait(event)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def flush(self) -> None:
        while data := self.codec.data_to_send():
            self.transport.write(data)

    async def pinged(self, times: int) -> None:
        """Return once as many PING frames have come."""
        self._pings_wanted = times
        await self._pinged.wait()

    async def hear(self, kind: type[h2.Event]) -> h2.Event:
        """The next event of a kind."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                event = await self.heard.get()
                if isinstance(event, kind):
                    return event


async def connector_by_hand(
    admission: Admission, settings: Settings | None = None, keep_alive: KeepAlive | None = None
) -> tuple[EdgeHTTP2, Peer]:
    """Our edge, registered with a connector made by hand; `edge` may open streams."""
    edge = EdgeHTTP2(admission, keep_alive=keep_alive)
    peer = Peer(HTTP2Connection(False, settings))
    memory_pair(peer, edge)
    await peer.hear(h2.RequestReceived)
    client = ControlClient()
    client.register(_register())
    peer.codec.send_headers(1, OK)
    peer.codec.send_data(1, client.data_to_send())
    peer.flush()
    async with asyncio.timeout(TIMEOUT):
        await admission.connections.get()
    return edge, peer


def _register() -> RegisterConnection:
    return control._message(registration(), b"")


async def edge_by_hand(handler: Upstreams) -> tuple[Peer, ConnectorHTTP2]:
    """Our connector, and an edge made by hand; nothing is opened yet."""
    connector = ConnectorHTTP2(handler)
    peer = Peer(HTTP2Connection(True))
    memory_pair(connector, peer)
    await peer.hear(h2.SettingsReceived)
    return peer, connector


@pytest.fixture
async def connection() -> AsyncIterator[Tunnel]:
    async with tunnel("http2") as opened:
        yield opened


@requirement("tunnel:trailers")
async def test_trailers_reach_the_edge(connection: Tunnel) -> None:
    client = connection.open(http_request())
    upstream: Upstream = await connection.upstreams.opened.get()
    upstream.stream.write(b"body")
    upstream.stream.write_trailers((("Grpc-Status", "0"), ("Transfer-Encoding", "x"), ("Cf-Int-A", "b")))
    assert await client.ended() is None
    assert (bytes(client.received), client.trailers) == (b"body", (("grpc-status", "0"),))


@requirement("tunnel:http2:control")
async def test_the_edge_opens_the_control_stream_at_once_and_marks_it() -> None:
    peer = Peer(HTTP2Connection(False))
    edge = EdgeHTTP2(Admission())
    memory_pair(peer, edge)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    assert marks.marked_kind(request.headers) is marks.MarkedKind.CONTROL
    assert not request.is_bare
    edge.close()
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()


@requirement("tunnel:http2:control")
async def test_a_connection_that_never_registers_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FIRST_CALL_TIMEOUT", 0.01)
    admission = Admission()
    peer = Peer(HTTP2Connection(False))
    memory_pair(peer, EdgeHTTP2(admission))
    async with asyncio.timeout(TIMEOUT):
        await peer.lost
    assert admission.told == []


@requirement("tunnel:registrar")
@pytest.mark.parametrize("trouble", ["slow", "broken"])
async def test_a_registrar_in_trouble_makes_the_connector_try_again(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    class Troubled(Admission):
        async def register(self, request: RegistrationRequest) -> Registered:
            if trouble == "broken":
                raise RuntimeError("a bug")
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(control, "REGISTRAR_TIMEOUT", 0.01)
    connector = ConnectorHTTP2(Upstreams())
    memory_pair(EdgeHTTP2(Troubled()), connector)
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(RegistrationRefused, match="Unauthorized"):  # any other word makes cloudflared exit
            await connector.register(registration())
        await connector.wait_closed()


@requirement("tunnel:http2:control")
async def test_a_lost_connection_cancels_its_registration() -> None:
    started = asyncio.Event()

    class Slow(Admission):
        async def register(self, request: RegistrationRequest) -> Registered:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

    connector, edge = ConnectorHTTP2(Upstreams()), EdgeHTTP2(Slow())
    memory_pair(edge, connector)
    registering = asyncio.create_task(connector.register(registration()))
    async with asyncio.timeout(TIMEOUT):
        await started.wait()
        connector.close()
        with pytest.raises(ConnectionLost):
            await registering
        await edge.wait_closed()


@requirement("tunnel:http2:control")
async def test_registering_twice_is_refused() -> None:
    admission = Admission()
    edge, peer = await connector_by_hand(admission)
    again = ControlClient()
    again.register(_register())
    data = again.data_to_send()
    peer.codec.send_data(1, data[48:].replace(data[72:76], b"\x05\0\0\0", 1))  # the call alone, as question 5
    peer.flush()
    async with asyncio.timeout(TIMEOUT):
        await peer.hear(h2.DataReceived)
    assert len(admission.requests) == 1
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:local-configuration")
@pytest.mark.parametrize("remotely_managed", [False, True])
async def test_the_first_connection_reports_its_configuration_unless_managed(remotely_managed: bool) -> None:
    server = ControlServer()
    peer, connector = await edge_by_hand(Upstreams())
    stream = peer.codec.open_stream((*GET, *marks.marker(marks.MarkedKind.CONTROL)))
    peer.flush()
    registering = asyncio.create_task(connector.register(registration(0)))
    heard: list[object] = []
    while not any(isinstance(event, RegisterReceived) for event in heard):
        event = await peer.hear(h2.DataReceived)
        assert isinstance(event, h2.DataReceived)
        server.receive_data(event.data)
        heard += server.events_received()
    details = ConnectionDetails(registration().tunnel_uuid, "lab", remotely_managed)
    [question_id] = [event.question_id for event in heard if isinstance(event, RegisterReceived)]
    server.accept(question_id, details)
    peer.codec.send_data(stream, server.data_to_send())
    peer.flush()
    async with asyncio.timeout(TIMEOUT):
        assert (await registering).location == "lab"
        unregistering = asyncio.create_task(connector.unregister())
        while not any(isinstance(event, UnregisterReceived) for event in heard):
            data = await peer.hear(h2.DataReceived)
            assert isinstance(data, h2.DataReceived)
            server.receive_data(data.data)
            heard += server.events_received()
    reported = [event for event in heard if isinstance(event, LocalConfigurationReceived)]
    assert len(reported) == (0 if remotely_managed else 1)
    connector.close()
    async with asyncio.timeout(TIMEOUT):
        await connector.wait_closed()
        await asyncio.wait([unregistering])
    assert isinstance(unregistering.exception(), ConnectionLost)


@requirement("tunnel:http2:control")
async def test_a_second_control_stream_is_refused() -> None:
    peer, connector = await edge_by_hand(Upstreams())
    for _ in range(2):
        peer.codec.open_stream((*GET, *marks.marker(marks.MarkedKind.CONTROL)))
    peer.flush()
    assert await peer.hear(h2.StreamReset) == h2.StreamReset(3, ErrorCode.REFUSED_STREAM)
    connector.close()
    await connector.wait_closed()


@requirement("tunnel:configuration")
async def test_a_pushed_configuration_is_declined_in_cloudflareds_form() -> None:
    peer, connector = await edge_by_hand(Upstreams())
    stream = peer.codec.open_stream((*POST, *marks.marker(marks.MarkedKind.CONFIGURATION)))
    peer.codec.send_data(stream, b'{"version": 7, "config": {}}')
    peer.codec.end_stream(stream)
    peer.flush()
    answer, body = await peer.hear(h2.ResponseReceived), await peer.hear(h2.DataReceived)
    assert isinstance(answer, h2.ResponseReceived)
    assert isinstance(body, h2.DataReceived)
    assert answer.headers[0] == (":status", "200")
    assert json.loads(body.data)["lastAppliedVersion"] == -1
    connector.close()
    await connector.wait_closed()


@requirement("tunnel:configuration")
async def test_an_edge_can_push_a_configuration_and_hears_what_came_of_it(connection: Tunnel) -> None:
    result = await connection.edge.push_configuration(3, {"ingress": []})
    assert result == ConfigurationResult(-1, "remote configuration is not supported")
    assert connection.edge.open_streams == 0


@requirement("tunnel:configuration")
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"lastAppliedVersion":"7"}', b"[" * 10_000, bytes(100_000)])
async def test_a_malformed_answer_to_a_push_is_the_peers_fault(body: bytes) -> None:
    edge, peer = await connector_by_hand(Admission())
    pushing = asyncio.create_task(edge.push_configuration(3, {}))
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    assert marks.marked_kind(request.headers) is marks.MarkedKind.CONFIGURATION
    peer.codec.send_headers(request.stream_id, OK)
    peer.codec.send_data(request.stream_id, body)
    peer.codec.end_stream(request.stream_id)
    peer.flush()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(ProtocolError):
            await pushing
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:http2:stalled")
async def test_a_stalled_websocket_does_not_slow_fifty_others() -> None:
    """On a connector like cloudflared: a connection window of 1 MB, credit only for what its local side has taken."""

    def upstream(head: RequestHead) -> Upstream:
        return Upstream(ACCEPTED, reading=head.path != "/stalled")

    async with _like_cloudflared(Upstreams(upstream)) as connection:
        stalled = connection.open(websocket_request("/stalled"))
        await stalled.answer()
        while stalled.may_write.is_set():
            stalled.transport.write(bytes(65536))
        others = [connection.open(websocket_request()) for _ in range(50)]
        for client in others:
            await client.answer()
        held = stalled.transport.get_write_buffer_size()
        assert 0 < held <= 512 * 1024  # memory is bounded
        for _ in range(10):
            for client in others:
                client.transport.write(b"z" * 30_000)
            for client in others:
                assert await client.receive(30_000) == b"z" * 30_000
        assert stalled.transport.get_write_buffer_size() == held  # stalled still: the others passed it by
        assert connection.edge.available_streams > 0
        while (upstream_end := await connection.upstreams.opened.get())._reading:
            continue
        upstream_end.stream.resume_reading()
        async with asyncio.timeout(TIMEOUT):
            await stalled.may_write.wait()


@requirement("tunnel:http2:crowded")
async def test_stalled_readers_that_hold_the_whole_window_are_given_up_for_the_others() -> None:
    narrow = Settings(initial_window=65_535, connection_window=131_070)

    def upstream(head: RequestHead) -> Upstream:
        return Upstream(ACCEPTED, reading=head.path != "/stalled")

    async with _like_cloudflared(Upstreams(upstream), narrow, KeepAlive(0.02, 20.0)) as connection:
        stalled = [connection.open(websocket_request("/stalled")) for _ in range(2)]
        for client in stalled:
            await client.answer()
            client.transport.write(bytes(65_535))
        other = connection.open(websocket_request())
        await other.answer()
        other.transport.write(b"z" * 30_000)
        assert await other.receive(30_000) == b"z" * 30_000
        assert sum(client.lost.done() for client in stalled) == 1


@asynccontextmanager
async def _like_cloudflared(
    upstreams: Upstreams, settings: Settings = CLOUDFLARED, keep_alive: KeepAlive | None = None
) -> AsyncIterator[Tunnel]:
    admission = Admission()
    connector = ConnectorHTTP2(upstreams, settings=settings, keep_alive=keep_alive)
    memory_pair(EdgeHTTP2(admission), connector)
    async with asyncio.timeout(TIMEOUT):
        await connector.register(registration())
        edge = await admission.connections.get()
    yield Tunnel(edge, connector, admission, upstreams)
    edge.close()
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
        await connector.wait_closed()


@requirement("tunnel:http2:limit")
async def test_the_connectors_stream_limit_is_honoured() -> None:
    edge, peer = await connector_by_hand(Admission(), Settings(max_concurrent_streams=3))
    assert edge.available_streams == 2  # the control stream counts
    for _ in range(2):
        edge.open_stream(http_request(), Client())
    with pytest.raises(ConnectionUnavailable):
        edge.open_stream(http_request(), Client())
    edge.close()
    await edge.wait_closed()
    assert peer.codec.open_streams == 3


@requirement("tunnel:silence")
async def test_a_peer_that_goes_silent_is_dropped_by_the_edge() -> None:
    admission = Admission()
    edge, peer = await connector_by_hand(admission, keep_alive=KeepAlive(0.02, 0.1))
    client = Client()
    edge.open_stream(http_request(), client)
    peer.answers = False
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
        assert await client.lost is not None
    assert admission.told == ["ready", "lost"]


@requirement("tunnel:silence")
async def test_a_peer_that_goes_silent_is_dropped_by_the_connector() -> None:
    connector = ConnectorHTTP2(Upstreams(), keep_alive=KeepAlive(0.02, 0.1))
    peer = Peer(HTTP2Connection(True))
    memory_pair(connector, peer)
    peer.answers = False
    async with asyncio.timeout(TIMEOUT):
        assert isinstance(await connector.wait_closed(), ConnectionLost)


@requirement("tunnel:silence")
async def test_a_quiet_peer_that_answers_pings_is_kept() -> None:
    edge, peer = await connector_by_hand(Admission(), keep_alive=KeepAlive(0.01, 0.05))
    async with asyncio.timeout(TIMEOUT):
        await peer.pinged(20)  # several times as long as silence would have been borne
    assert edge.available_streams > 0
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:silence")
async def test_a_peer_that_stops_reading_is_dropped_though_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_link, "HELD_TOO_LONG", 0.02)
    edge, peer = await connector_by_hand(Admission(), keep_alive=KeepAlive(0.02, 20.0))
    client = Client()
    edge.open_stream(http_request("POST", has_body=True), client)
    peer.codec.receive_data = lambda data: None  # type: ignore[method-assign] # it hears nothing from now on
    peer.transport.write(window_update(0, 2**30) + window_update(3, 2**30))
    peer.transport.pause_reading()
    while client.may_write.is_set():
        client.transport.write(bytes(65536))
        await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()
    assert isinstance(await client.ended(), ConnectionLost)


@requirement("tunnel:carriers")
async def test_tiny_frames_for_a_paused_reader_take_no_more_room_than_their_bytes() -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    stream = edge.open_stream(websocket_request(), client)
    stream.pause_reading()
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.send_headers(request.stream_id, (*OK, (marks.RESPONSE_META, marks.ORIGIN_META)))
    for _ in range(5_000):
        peer.codec.send_data(request.stream_id, b"x")
    peer.flush()
    await client.answer()
    assert isinstance(stream, EdgeStream)
    assert len(stream._unread) == 5_000
    assert sys.getsizeof(stream._unread) < 10_000
    stream.resume_reading()
    assert await client.receive(5_000) == b"x" * 5_000
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:answers")
@pytest.mark.parametrize(
    ("headers", "status", "from_upstream", "limited"),
    [
        ((*OK, (marks.RESPONSE_META, marks.ORIGIN_META)), 200, True, False),
        (((":status", "502"), (marks.RESPONSE_META, marks.CONNECTOR_META)), 502, False, False),
        (((":status", "502"), (marks.RESPONSE_META, marks.RATE_LIMITED_META)), 502, False, True),
        (OK, 200, False, False),
    ],
)
async def test_whose_answer_it_is(headers: h2.Headers, status: int, from_upstream: bool, limited: bool) -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(http_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.send_headers(request.stream_id, headers, end_stream=True)
    peer.flush()
    answer = await client.answer()
    assert (answer.status, answer.from_upstream, answer.rate_limited) == (status, from_upstream, limited)
    assert await client.ended() is None
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:websocket")
@pytest.mark.parametrize("accept", [None, "wrong"])
async def test_a_websocket_answer_without_the_right_accept_header_is_not_accepted(accept: str | None) -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(websocket_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    fields = marks.serialise_headers(() if accept is None else (("Sec-Websocket-Accept", accept),))
    meta = (marks.RESPONSE_META, marks.ORIGIN_META)
    peer.codec.send_headers(request.stream_id, (*OK, meta, (marks.RESPONSE_HEADERS, fields)))
    peer.flush()
    assert (await client.answer()).status == 200
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:answers")
async def test_an_answer_with_broken_headers_ends_its_stream_only() -> None:
    edge, peer = await connector_by_hand(Admission())
    broken, whole = Client(), Client()
    for client in (broken, whole):
        edge.open_stream(http_request(), client)
    first, second = [await peer.hear(h2.RequestReceived) for _ in range(2)]
    assert isinstance(first, h2.RequestReceived)
    assert isinstance(second, h2.RequestReceived)
    meta = (marks.RESPONSE_META, marks.ORIGIN_META)
    peer.codec.send_headers(first.stream_id, (*OK, meta, (marks.RESPONSE_HEADERS, "???")))
    peer.codec.send_headers(second.stream_id, (*OK, meta), end_stream=True)
    peer.flush()
    assert isinstance(await broken.ended(), ProtocolError)
    assert (await whole.answer()).status == 200
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:reset")
async def test_a_reset_before_any_answer_is_told_with_its_code() -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(http_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.reset_stream(request.stream_id, ErrorCode.INTERNAL_ERROR)
    peer.flush()
    error = await client.ended()
    assert isinstance(error, StreamReset)
    assert error.error_code == ErrorCode.INTERNAL_ERROR
    assert not client.head.done()
    edge.close()
    await edge.wait_closed()


@requirement("tunnel:reset")
async def test_an_upstream_that_never_answers_but_closes_is_a_reset() -> None:
    class Mute(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.close()

    async with tunnel("http2", Upstreams(lambda head: Mute())) as connection:
        error = await connection.open(http_request()).ended()
        assert isinstance(error, StreamReset)
        assert error.error_code == ErrorCode.INTERNAL_ERROR


@requirement("tunnel:bugs")
async def test_a_bug_in_one_streams_protocol_ends_that_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Upstream):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    def make(head: RequestHead) -> Upstream:
        return (Broken if head.path == "/broken" else Upstream)(ACCEPTED)

    async with tunnel("http2", Upstreams(make)) as connection:
        broken, whole = connection.open(websocket_request("/broken")), connection.open(websocket_request())
        await broken.answer()
        await whole.answer()
        broken.transport.write(b"x")
        assert isinstance(await broken.ended(), StreamReset)
        whole.transport.write(b"still here")
        assert await whole.receive(10) == b"still here"
    assert "a bug" in caplog.text


@requirement("tunnel:http2:garbage")
async def test_a_peer_that_speaks_no_http2_is_dropped() -> None:
    for end in (EdgeHTTP2(Admission()), ConnectorHTTP2(Upstreams())):
        peer = Peer(HTTP2Connection(False), answer_pings=False)
        memory_pair(peer, end)
        peer.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        async with asyncio.timeout(TIMEOUT):
            await peer.lost
            assert isinstance(await Link.wait_lost(end), ProtocolError)


@requirement("tunnel:http2:goaway")
async def test_a_connector_that_goes_away_gets_no_new_streams() -> None:
    edge, peer = await connector_by_hand(Admission())
    client = Client()
    edge.open_stream(http_request(), client)
    request = await peer.hear(h2.RequestReceived)
    assert isinstance(request, h2.RequestReceived)
    peer.codec.go_away()
    peer.codec.send_headers(request.stream_id, (*OK, (marks.RESPONSE_META, marks.ORIGIN_META)), end_stream=True)
    peer.flush()
    assert await client.ended() is None
    assert edge.available_streams == 0
    async with asyncio.timeout(TIMEOUT):
        await edge.wait_closed()  # drained: only a closed connection makes a stock connector reconnect


@requirement("tunnel:client-gone")
async def test_a_client_that_leaves_before_the_answer_cancels_the_request(connection: Tunnel) -> None:
    client = connection.open(http_request())
    upstream: Upstream = await connection.upstreams.opened.get()
    client.transport.close()
    async with asyncio.timeout(TIMEOUT):
        assert isinstance(await upstream.lost, StreamReset)


async def test_an_answer_before_the_end_of_the_request_stops_the_request() -> None:
    upstreams = Upstreams(lambda head: Upstream(ResponseHead(413), echo=False))
    async with tunnel("http2", upstreams) as connection:
        client = connection.open(http_request("POST", has_body=True))
        upstream: Upstream = await upstreams.opened.get()
        upstream.stream.close()
        assert (await client.answer()).status == 413
        assert await client.ended() is None
        for _ in range(100):
            await asyncio.sleep(0)
        assert connection.edge.open_streams == connection.connector.open_streams == 0
