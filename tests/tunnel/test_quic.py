"""What is QUIC's own: probes, credit, heads that are not split, stray datagrams, what is left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from qh3.quic.connection import QuicConnection
from qh3.quic.events import StreamDataReceived
from qh3.quic.stream import QuicStreamReceiver

from qanat.net.layer import HIGH_WATER
from qanat.net.transport import Receiver
from qanat.pki.issue import CONNECTOR_LISTENER_NAMES, issue_listener
from qanat.pki.material import Pair
from qanat.tunnel import control
from qanat.tunnel.connection import ConnectionLost, ConnectionUnavailable
from qanat.tunnel.quic import QUICConnectorConnection, QUICEdgeConnection
from qanat.tunnel.quic_engine import STREAM_WINDOW, client_configuration
from qanat.tunnel.quic_link import QUICStream
from qanat.tunnel.quic_udp import QUICListener, dial_quic, listen_quic
from qanat.wire.quic_stream import ConnectRequest, ConnectType
from tests.support.pki import now, serial, throwaway_ca
from tests.support.proxy import until
from tests.support.requirements import requirement
from tests.support.tunnel import ACCEPTED, TIMEOUT, Admission, Client, Upstream, Upstreams, registration, tunnel
from tests.support.tunnel import http_request as request
from tests.tunnel.test_http2_control import unknown_message


@pytest.fixture(scope="module")
def ca() -> Pair:
    return throwaway_ca()


@pytest.fixture
async def listener(ca: Pair) -> AsyncIterator[QUICListener]:
    """A listener with a certificate for the connectors' names."""
    pair = issue_listener(ca, CONNECTOR_LISTENER_NAMES, now(), serial())
    listening = await listen_quic("127.0.0.1", 0, Admission(), pair.certificate_pem, pair.key_pem)
    yield listening
    await listening.close()


@pytest.mark.slow
async def test_a_probe_shakes_hands_and_leaves_without_a_trace(listener: QUICListener, ca: Pair) -> None:
    probe = await dial_quic(*listener.address, Upstreams(), ca.certificate_pem, server_name="probe.cftunnel.com")
    assert len(listener.connections) == 1
    probe.close()
    await until(lambda: not listener.connections)


async def test_another_name_or_another_ca_fails_with_a_reason(listener: QUICListener, ca: Pair) -> None:
    with pytest.raises(ConnectionLost, match=r"certificate|hostname|name"):
        await dial_quic(*listener.address, Upstreams(), ca.certificate_pem, server_name="edge.example")
    with pytest.raises(ConnectionLost, match=r"certificate|issuer|trust"):
        await dial_quic(*listener.address, Upstreams(), throwaway_ca("other").certificate_pem)


async def test_a_new_certificate_is_shown_to_new_connections(listener: QUICListener) -> None:
    other = throwaway_ca("another CA")
    pair = issue_listener(other, CONNECTOR_LISTENER_NAMES, now(), serial())
    listener.use_certificate(pair.certificate_pem, pair.key_pem)
    connection = await dial_quic(*listener.address, Upstreams(), other.certificate_pem)
    connection.close()


async def test_where_nobody_listens_the_dial_fails_at_once(ca: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        await dial_quic("127.0.0.1", port, Upstreams(), ca.certificate_pem)


async def test_where_nobody_answers_the_dial_gives_up(ca: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(TimeoutError, match="no answer over UDP"):
            await dial_quic("127.0.0.1", deaf.getsockname()[1], Upstreams(), ca.certificate_pem, timeout=0.05)


async def test_stray_datagrams_are_ignored(listener: QUICListener, ca: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stray:
        for data in (b"", b"x", bytes(1200), b"\xc0" + bytes(1300), b"\x40" * 1300, b"\xff" * 40):
            stray.sendto(data, listener.address)
        unknown = b"\xc0\xba\xba\xba\xba\x08" + bytes(8) + b"\x08" + bytes(8) + bytes(1200)
        stray.sendto(unknown, listener.address)
        stray.settimeout(TIMEOUT)
        answer = await asyncio.to_thread(stray.recv, 2000)
        assert answer[1:5] == bytes(4), "an unknown version is answered by version negotiation"
    connection = await dial_quic(*listener.address, Upstreams(), ca.certificate_pem)
    connection.close()


async def test_streams_that_a_connector_opens_beyond_the_first_are_refused() -> None:
    async with tunnel("quic") as connection:
        assert isinstance(connection.connector, QUICConnectorConnection)
        heard = Upstream(ACCEPTED)
        stream = connection.connector.link.open_stream(heard)
        stream.write(b"R\xbb\x82\\\xdbe and a call")
        async with asyncio.timeout(TIMEOUT):
            assert await heard.lost is not None


@requirement("quic:credit")
class Deaf(Receiver):
    """Hears nothing."""


async def test_a_connector_that_asks_and_takes_no_answer_is_closed(
    listener: QUICListener, ca: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "FIRST_CALL_TIMEOUT", 3600.0)
    connector = await dial_quic(*listener.address, Upstreams(), ca.certificate_pem)
    stream = connector.link.open_stream(Deaf())
    stream.pause_reading()
    for _ in range(400):
        stream.write(unknown_message(8000))
    async with asyncio.timeout(TIMEOUT):
        await connector.wait_closed()


async def test_a_paused_reader_is_sent_no_more_than_its_window() -> None:
    async with tunnel("quic") as connection:
        client, upstream = await connection.open_websocket()
        upstream.stream.pause_reading()
        written = 0
        while client.may_write.is_set():
            client.transport.write(bytes(65536))
            written += 65536
            await asyncio.sleep(0)
        assert isinstance(connection.connector, QUICConnectorConnection)
        (stream,) = (each for each in connection.connector.link.streams.values() if each.stream_id % 4 == 1)
        other, echoing = await connection.open_websocket()
        other.transport.write(b"still moving")
        assert await other.receive(12) == b"still moving"
        assert connection.connector.link.held <= STREAM_WINDOW
        assert written <= STREAM_WINDOW + HIGH_WATER + 65536
        assert not stream.is_reading()
        assert echoing is not upstream


@pytest.mark.parametrize("again", [1, 3])
async def test_bytes_for_a_stream_that_was_let_go_of_are_no_new_request(again: int) -> None:
    smuggled = ConnectRequest("https://internal/admin", ConnectType.HTTP, (("HttpMethod", "POST"),)).encode()
    async with tunnel("quic") as connection:
        assert isinstance(connection.connector, QUICConnectorConnection)
        link = connection.connector.link
        _, first = await connection.open_websocket()
        _, second = await connection.open_websocket()
        gone = max(link.streams)
        second.stream.abort()
        first.stream.abort()
        await until(lambda: gone not in link.streams)
        before = list(connection.upstreams.heads)
        for _ in range(again):
            link._hear_data(StreamDataReceived(data=smuggled, end_stream=False, stream_id=gone))
        assert connection.upstreams.heads == before
        assert gone not in link.streams
        client, _ = await connection.open_websocket()
        client.transport.write(b"still here")
        assert await client.receive(10) == b"still here"


@requirement("quic:credit")
@pytest.mark.slow
async def test_credit_that_a_reset_stream_held_comes_back() -> None:
    async with tunnel("quic") as connection:
        assert isinstance(connection.connector, QUICConnectorConnection)
        link = connection.connector.link
        for _ in range(40):  # half a megabyte each: together more than the connection's window
            client, upstream = await connection.open_websocket()
            upstream.stream.pause_reading()
            while link.held < 500_000:
                if client.may_write.is_set():
                    client.transport.write(bytes(262_144))
                await asyncio.sleep(0)
            client.transport.abort()
            async with asyncio.timeout(TIMEOUT):
                await upstream.lost
        client, _ = await connection.open_websocket()
        client.transport.write(b"x" * 100_000)
        assert await client.receive(100_000) == b"x" * 100_000


@requirement("quic:no-split")
async def test_no_head_is_cut_behind_its_seventh_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    first: dict[int, int] = {}
    handle = QuicStreamReceiver.handle_frame

    def note(self: Any, offset: int, data: bytes, fin: bool = False) -> Any:
        if offset == 0 and self._stream_id is not None:
            first.setdefault(self._stream_id, len(data))
        return handle(self, offset, data, fin)

    monkeypatch.setattr(QuicStreamReceiver, "handle_frame", note)
    async with tunnel("quic") as connection:
        bulk, _ = await connection.open_websocket()
        for number in range(200):  # heads of all lengths between packets filled to the brim
            if bulk.may_write.is_set():
                bulk.transport.write(bytes(3_000 + number))
            connection.open(request("GET", "/" + "p" * number))
            if number % 10 == 0:
                await asyncio.sleep(0)
        for client in connection.clients[1:]:
            await client.answer()
    requests = [size for stream_id, size in first.items() if stream_id % 4 == 1]
    assert len(requests) == 201
    assert min(requests) >= 8


@requirement("quic:no-split")
async def test_a_head_that_the_connections_credit_would_cut_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tunnel("quic") as connection:
        assert isinstance(connection.edge, QUICEdgeConnection)
        engine = connection.edge.link.engine
        engine.written = engine._remote_max_data - 7
        assert connection.edge.available_streams == 0
        with pytest.raises(ConnectionUnavailable):
            connection.open(request())


@requirement("quic:leak")
@pytest.mark.slow
async def test_a_thousand_idle_streams_leave_nothing_behind() -> None:
    async with tunnel("quic") as connection:
        for _ in range(2):
            pairs = [await connection.open_websocket() for _ in range(500)]
            assert connection.edge.open_streams == 500
            for client, _upstream in pairs:
                client.transport.close()
            del client, _upstream, pairs
            connection.clients.clear()
            connection.upstreams.heads.clear()
            await until(lambda: not connection.edge.open_streams and not connection.connector.open_streams)
        assert isinstance(connection.edge, QUICEdgeConnection)
        assert isinstance(connection.connector, QUICConnectorConnection)
        assert len(connection.edge.link.streams) == len(connection.connector.link.streams) == 1
        await until(lambda: left(connection.edge) <= 2 and left(connection.connector) <= 2)
        gc.collect()
        assert sum(isinstance(each, QUICStream) for each in gc.get_objects()) <= 4
        assert sum(isinstance(each, Client) for each in gc.get_objects()) <= 1


def left(connection: Any) -> int:
    """Streams that qh3 still keeps."""
    engine: QuicConnection = connection.link.engine
    return len(engine._streams)


async def test_a_listener_that_is_closed_closes_its_connections(listener: QUICListener, ca: Pair) -> None:
    connector = await dial_quic(*listener.address, Upstreams(), ca.certificate_pem)
    async with asyncio.timeout(TIMEOUT):
        await connector.register(registration())
        await listener.close()
        assert await connector.wait_closed() is None
    with pytest.raises(ConnectionLost):
        await connector.register(registration())


def test_a_client_verifies_its_peer() -> None:
    configuration = client_configuration("quic.cftunnel.com", None)
    assert configuration.verify_mode is not None
    assert configuration.verify_mode != 0


@requirement("tunnel:configuration")
async def test_a_pushed_configuration_is_declined_in_words() -> None:
    async with tunnel("quic") as connection:
        result = await connection.edge.push_configuration(7, {"ingress": [{"service": "http://x"}]})
        assert (result.latest_applied_version, result.error) == (-1, "remote configuration is not supported")
        connection.connector.close()
        async with asyncio.timeout(TIMEOUT):
            await connection.edge.wait_closed()
        with pytest.raises(ConnectionUnavailable):
            await connection.edge.push_configuration(8, {})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_bytes_survive_the_loss_of_packets_among_streams_that_come_and_break(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)

    def lossy(transmit: Any) -> Any:
        return lambda data, address: transmit(data, address) if chance.random() > 0.03 else None

    async with tunnel("quic") as connection:
        assert isinstance(connection.edge, QUICEdgeConnection)
        assert isinstance(connection.connector, QUICConnectorConnection)
        for link in (connection.edge.link, connection.connector.link):
            monkeypatch.setattr(link, "_send", lossy(link._send))
        kept, sent = [await connection.open_websocket() for _ in range(5)], bytearray()
        for round_ in range(40):
            piece = chance.randbytes(20_000)
            sent += piece
            for client, _ in kept:
                client.transport.write(piece)
            broken, _ = await connection.open_websocket()
            broken.transport.write(bytes(300_000))
            if round_ % 2:
                await asyncio.sleep(0.005)
            broken.transport.abort()
        for client, _ in kept:
            assert await client.receive(len(sent)) == sent
        await until(lambda: connection.edge.open_streams == len(kept))
        assert not connection.edge.link.lost
