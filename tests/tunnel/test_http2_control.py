"""Registration and configuration over HTTP/2, as bytes: the control stream, and peers that misbehave on it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator

import pytest

from qanat.errors import ProtocolError
from qanat.net.memory import memory_pair
from qanat.tunnel import control
from qanat.tunnel.connection import (
    ConnectionLost,
    Registered,
    RegistrationRefused,
    RegistrationRequest,
)
from qanat.tunnel.http2 import MAX_CONTROL_QUEUE, ConnectorHTTP2, EdgeHTTP2
from qanat.wire import cloudflared_headers as marks
from qanat.wire.control_stream import (
    ControlClient,
    ControlServer,
    LocalConfigurationReceived,
    RegisterReceived,
    UnregisterReceived,
)
from qanat.wire.http2 import ErrorCode, HTTP2Connection
from qanat.wire.http2 import events as h2
from qanat.wire.registration import ConfigurationResult, ConnectionDetails
from tests.support.http2 import GET, OK, POST, settings_frame
from tests.support.http2_peer import Peer, connector_by_hand, edge_by_hand, register_message
from tests.support.requirements import requirement
from tests.support.tunnel import (
    TIMEOUT,
    Admission,
    Tunnel,
    Upstreams,
    registration,
    tunnel,
)


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
    again.register(register_message())
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


@pytest.fixture
async def connection() -> AsyncIterator[Tunnel]:
    async with tunnel("http2") as opened:
        yield opened


def unknown_message(size: int) -> bytes:
    """An RPC message of a kind that does not exist: it is answered with itself, as Cap'n Proto wants it."""
    body = struct.pack("<iHHH6x", 0, 1, 0, 77) + bytes(size)
    return struct.pack("<II", 0, len(body) // 8) + body


@requirement("tunnel:http2:control")
async def test_a_connector_that_asks_and_takes_no_answer_is_closed() -> None:
    edge = EdgeHTTP2(Admission())
    peer = Peer(HTTP2Connection(False))
    memory_pair(peer, edge)
    await peer.hear(h2.RequestReceived)
    peer.codec.send_headers(1, OK)
    peer.transport.write(settings_frame((4, 0)))
    for _ in range(MAX_CONTROL_QUEUE // 8000 + 1):
        peer.codec.send_data(1, unknown_message(8000))
    peer.flush()
    async with asyncio.timeout(TIMEOUT):
        assert "does not read" in str(await edge.wait_lost())


@requirement("tunnel:http2:control")
async def test_a_connector_that_asks_what_nobody_knows_and_takes_its_answers_stays() -> None:
    edge, peer = await connector_by_hand(Admission())
    for _ in range(MAX_CONTROL_QUEUE // 8000 + 1):
        peer.codec.send_data(1, unknown_message(8000))
        peer.flush()
        event = await peer.hear(h2.DataReceived)
        assert isinstance(event, h2.DataReceived)
        peer.codec.acknowledge(1, len(event.data))
    assert not edge.transport.is_closing()
    edge.close()
