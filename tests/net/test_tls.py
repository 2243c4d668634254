"""TLS as a layer: over memory with both ends ours, and against the standard library's own implementation."""

from __future__ import annotations

import asyncio
import ssl
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanat.net.dial import dial_tls, start_tls
from qanat.net.errors import TLSFailed, TLSTruncated
from qanat.net.layer import HIGH_WATER
from qanat.net.memory import MemoryTransport, memory_pair
from qanat.net.tls import HandshakeGate, TLSClient, TLSServer
from qanat.net.transport import Receiver, as_protocol
from tests.support.pki import DOMAIN, throwaway_ca, throwaway_server
from tests.support.recorder import TIMEOUT, Recorder, settle

HOST = f"tickets.{DOMAIN}"


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's: the one trusts the other's CA and nothing else."""
    ca = throwaway_ca()
    server = throwaway_server(ca)
    client_context = ssl.create_default_context(cadata=ca.certificate_pem.decode())
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        certificate.write_bytes(server.certificate_pem)
        key.write_bytes(server.key_pem)
        server_context.load_cert_chain(certificate, key)
    for context in (client_context, server_context):
        context.set_alpn_protocols(["http/1.1"])
    return client_context, server_context


@pytest.fixture
def client_context() -> ssl.SSLContext:
    return contexts()[0]


@pytest.fixture
def server_context() -> ssl.SSLContext:
    return contexts()[1]


class Session:
    """A client and a server layer over a memory pair."""

    def __init__(self, client_context: ssl.SSLContext, server_context: ssl.SSLContext, **options: Any) -> None:
        self.client, self.server = Recorder(), Recorder()
        self.failures: dict[str, Exception] = {}
        host = options.pop("host", HOST)
        client_options = options.pop("client", {})
        self.client_layer = TLSClient(
            self.client, client_context, host, on_failure=lambda error: self._fail("client", error), **client_options
        )
        self.server_layer = TLSServer(
            self.server, server_context, on_failure=lambda error: self._fail("server", error), **options
        )
        self.client_end, self.server_end = memory_pair(self.client_layer, self.server_layer)
        self._failed = asyncio.Event()

    def _fail(self, side: str, error: Exception) -> None:
        self.failures[side] = error
        self._failed.set()

    async def ready(self) -> Session:
        await self.client.wait_for("made")
        await self.server.wait_for("made")
        return self

    async def failed(self, side: str) -> Exception:
        async with asyncio.timeout(TIMEOUT):
            while side not in self.failures:
                self._failed.clear()
                await self._failed.wait()
        return self.failures[side]


async def test_bytes_pass_both_ways_after_the_handshake(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    session.client.transport.write(b"question")
    session.server.transport.write(b"answer")
    assert await session.server.wait_for_bytes(8) == b"question"
    assert await session.client.wait_for_bytes(6) == b"answer"
    assert session.client.transport.get_extra_info("alpn_protocol") == "http/1.1"
    assert session.client.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert session.client.transport.get_extra_info("peercert_der")


async def test_a_clean_end_is_an_end_and_no_error(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    session.client.transport.write(b"last words")
    session.client.transport.close()
    await session.server.wait_for("lost")
    assert bytes(session.server.data) == b"last words"
    assert session.server.heard == ["made", "eof", "lost"]
    assert session.server.error is None


async def test_an_end_without_close_notify_is_a_truncation(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    session.client.transport.write(b"half")
    await session.server.wait_for_bytes(4)
    session.client_end.close()  # below TLS: what somebody on the path can do
    await session.server.wait_for("lost")
    assert isinstance(session.server.error, TLSTruncated)


async def test_a_changed_record_ends_the_session_with_an_error(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    session.client_end.write(bytes.fromhex("1703030020") + bytes(32))
    await session.server.wait_for("lost")
    assert isinstance(session.server.error, TLSFailed)
    assert session.server.data == b""


async def test_garbage_in_place_of_a_handshake_is_a_failure_and_nothing_is_made(
    server_context: ssl.SSLContext,
) -> None:
    failures: list[Exception] = []
    above, peer = Recorder(), Recorder()
    _, far = memory_pair(TLSServer(above, server_context, on_failure=failures.append), peer)
    far.write(b"GET / HTTP/1.1\r\n\r\n")
    await peer.wait_for("lost")
    await settle()
    assert len(failures) == 1
    assert isinstance(failures[0], TLSFailed)
    assert above.heard == []


async def test_an_unknown_authority_is_refused_and_the_server_hears_why(server_context: ssl.SSLContext) -> None:
    stranger = ssl.create_default_context(cadata=throwaway_ca().certificate_pem.decode())
    session = Session(stranger, server_context)
    failure = await session.failed("client")
    assert isinstance(failure, TLSFailed)
    assert not failure.by_peer
    assert "certificate verify failed" in str(failure)
    told = await session.failed("server") if "made" not in session.server.heard else session.server.error
    assert session.client.heard == []
    assert told is None or isinstance(told, TLSFailed | TLSTruncated)


async def test_a_name_the_certificate_does_not_hold_is_refused(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = Session(client_context, server_context, host="tickets.example.org")
    assert "certificate verify failed" in str(await session.failed("client"))


async def test_verify_has_the_last_word(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    def refuse(_: ssl.SSLObject) -> None:
        raise TLSFailed("not to our taste")

    session = Session(client_context, server_context, client={"verify": refuse})
    assert str(await session.failed("client")) == "tls: not to our taste"
    assert session.client.heard == []


async def test_a_handshake_that_never_ends_is_given_up(server_context: ssl.SSLContext) -> None:
    failures: list[Exception] = []
    peer = Recorder()
    memory_pair(TLSServer(Recorder(), server_context, on_failure=failures.append, handshake_timeout=0.05), peer)
    await peer.wait_for("lost")
    await settle()
    assert [str(failure) for failure in failures] == ["tls: handshake timed out"]


async def test_a_slow_reader_stops_the_writer_and_then_gets_everything(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    session.server.transport.pause_reading()
    sent = 0
    while "paused" not in session.client.heard:
        session.client.transport.write(bytes(65536))
        sent += 65536
        await settle()
        assert sent <= 4 * HIGH_WATER, "the writer was never stopped"
    assert session.server.data == b""
    session.server.transport.resume_reading()
    assert len(await session.server.wait_for_bytes(sent)) == sent
    await session.client.wait_for("resumed")


async def test_a_writer_hears_within_its_turn_that_it_is_too_much(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    for _ in range(2 * HIGH_WATER // 65536):  # as a socket does that has megabytes to read
        session.client.transport.write(bytes(65536))
    assert "paused" in session.client.heard
    assert len(await session.server.wait_for_bytes(2 * HIGH_WATER)) == 2 * HIGH_WATER


async def test_a_pause_in_the_middle_of_what_has_arrived_holds_back_the_rest(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    class PausesAtOnce(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    session = await Session(client_context, server_context).ready()
    eager = PausesAtOnce()
    eager.transport = session.server.transport
    session.server.transport.set_protocol(eager)
    session.client.transport.write(bytes(50_000))  # more than one record
    await eager.wait_for_bytes(1)
    await settle()
    first = len(eager.data)
    assert first <= 16384
    while len(eager.data) < 50_000:
        before = len(eager.data)
        eager.transport.resume_reading()
        await eager.wait_for_bytes(before + 1)
    assert len(eager.data) == 50_000


async def test_writes_of_one_turn_leave_together(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = await Session(client_context, server_context).ready()
    await settle()
    writes: list[int] = []
    below = session.client_layer.below
    assert isinstance(below, MemoryTransport)

    class Counting(MemoryTransport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            writes.append(len(data))
            below.write(data)

    counting = Counting(Recorder())
    session.client_layer.below = counting
    for _ in range(5):
        session.client.transport.write(b"x" * 10)
    assert writes == []
    await session.server.wait_for_bytes(50)
    assert len(writes) == 1


async def test_a_session_that_fails_at_the_end_of_a_turn_takes_no_other_with_it(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    failing, other = [await Session(client_context, server_context).ready() for _ in range(2)]
    await settle()

    class Broken(MemoryTransport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            raise RuntimeError("broken")

    failing.client_layer.below = Broken(Recorder())
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    failing.client.transport.write(b"lost")
    other.client.transport.write(b"arrives")
    assert await other.server.wait_for_bytes(7) == b"arrives"
    assert [str(context["exception"]) for context in reported] == ["broken"]


@given(st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_any_sequence_of_writes_arrives_as_one_stream(pieces: list[bytes]) -> None:
    assert asyncio.run(send(pieces)) == b"".join(pieces)


async def send(pieces: list[bytes]) -> bytes:
    """What the server has when a client wrote these pieces and closed."""
    session = await Session(*contexts()).ready()
    for piece in pieces:
        session.client.transport.write(piece)
    session.client.transport.close()
    await session.server.wait_for("lost")
    return bytes(session.server.data)


class TestAgainstTheStandardLibrary:
    """The other end is asyncio's own TLS, over a real socket."""

    async def test_our_client_talks_to_asyncios_server(
        self, client_context: ssl.SSLContext, server_context: ssl.SSLContext
    ) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(200_000))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            above = Recorder()
            layer = await dial_tls("127.0.0.1", port, above, client_context, HOST, timeout=TIMEOUT)
            data = bytes(range(256)) * 800
            layer.write(data[:200_000])
            assert await above.wait_for_bytes(200_000) == data[:200_000]
            await above.wait_for("lost")
            assert above.error is None

    async def test_our_server_talks_to_asyncios_client(
        self, client_context: ssl.SSLContext, server_context: ssl.SSLContext
    ) -> None:
        above = Recorder()
        server = await asyncio.get_running_loop().create_server(
            lambda: as_protocol(TLSServer(above, server_context)), "127.0.0.1", 0
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context, server_hostname=HOST)
            writer.write(bytes(200_000))
            await above.wait_for_bytes(200_000)
            above.transport.write(b"got it")
            above.transport.close()
            async with asyncio.timeout(TIMEOUT):
                assert await reader.read() == b"got it"
            writer.close()
            await writer.wait_closed()

    async def test_a_dial_that_fails_says_why_and_leaves_no_connection(self, server_context: ssl.SSLContext) -> None:
        above = Recorder()
        stranger = ssl.create_default_context(cadata=throwaway_ca().certificate_pem.decode())
        peers: list[Recorder] = []

        def accept() -> TLSServer:
            peers.append(Recorder())
            return TLSServer(peers[-1], server_context)

        server = await asyncio.get_running_loop().create_server(lambda: as_protocol(accept()), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TLSFailed, match="certificate verify failed"):
                await dial_tls("127.0.0.1", port, above, stranger, HOST, timeout=TIMEOUT)
        assert above.heard == []

    async def test_a_silent_peer_is_given_up_in_time(self, client_context: ssl.SSLContext) -> None:
        silent = Recorder()

        def connect(layer: Receiver) -> None:
            memory_pair(layer, silent)

        with pytest.raises(TimeoutError):
            await start_tls(connect, Recorder(), client_context, HOST, timeout=0.05)
        await silent.wait_for("lost")


def test_a_gate_lets_in_so_many_and_keeps_so_many_waiting() -> None:
    gate, entered = HandshakeGate(limit=2, waiting=1), []
    starts = [lambda number=number: entered.append(number) for number in range(5)]
    assert [gate.enter(start) for start in starts[:4]] == [True, True, True, False]
    assert entered == [0, 1]
    gate.leave()
    assert entered == [0, 1, 2]
    assert not gate.forget(starts[2])
    gate.leave()
    gate.leave()
    assert gate.enter(starts[4])
    assert entered == [0, 1, 2, 4]


def test_handshakes_that_are_over_as_soon_as_they_start_do_not_pile_up() -> None:
    gate, over = HandshakeGate(limit=1, waiting=5000), []

    def fail() -> None:
        over.append(True)
        gate.leave()

    assert gate.enter(lambda: None)
    for _ in range(5000):
        assert gate.enter(fail)
    gate.leave()
    assert len(over) == 5000
    assert gate.enter(fail)
    assert len(over) == 5001


async def test_a_failed_handshake_frees_its_place_at_the_gate(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    gate = HandshakeGate(limit=1, waiting=8)
    peer = Recorder()
    _, far = memory_pair(TLSServer(Recorder(), server_context, gate=gate), peer)
    session = Session(client_context, server_context, gate=gate)
    await settle()
    assert session.client.heard == []
    far.write(b"no TLS at all, and long enough to be seen through")
    await session.ready()
