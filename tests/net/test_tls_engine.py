"""TLS without I/O: many sessions in the same two buffers, none of which sees what is another's."""

from __future__ import annotations

import ssl

import pytest

from qanat.net.errors import TLSFailed
from qanat.net.tls import TLSClient, TLSServer
from qanat.net.tls_engine import TLSEngine, end_of_record
from tests.net.test_tls import HOST, Session, contexts
from tests.support.recorder import Recorder, settle
from tests.support.weight import count_alive

WHOLE = bytes.fromhex("1703030003") + b"abc"


async def test_idle_sessions_hold_no_buffers_of_their_own() -> None:
    first = await Session(*contexts()).ready()
    before = count_alive(ssl.MemoryBIO)
    sessions = [await Session(*contexts()).ready() for _ in range(5)]
    for session in sessions:  # in turns, and more than a record each way
        session.client.transport.write(bytes(40_000))
        session.server.transport.write(bytes(40_000))
    for session in sessions:
        await session.client.wait_for_bytes(40_000)
        await session.server.wait_for_bytes(40_000)
    assert count_alive(ssl.MemoryBIO) == before
    first.client.transport.write(b"still here")
    assert await first.server.wait_for_bytes(10) == b"still here"


async def test_a_session_may_run_inside_another_one() -> None:
    outer = await Session(*contexts()).ready()
    client, server = Recorder(), Recorder()
    context, server_context = contexts()
    below_client, below_server = TLSClient(client, context, HOST), TLSServer(server, server_context)
    for transport, layer in ((outer.client.transport, below_client), (outer.server.transport, below_server)):
        transport.set_protocol(layer)
        layer.connection_made(transport)
    await client.wait_for("made")
    await server.wait_for("made")
    client.transport.write(bytes(range(256)) * 400)
    server.transport.write(b"answer")
    assert await server.wait_for_bytes(102_400) == bytes(range(256)) * 400
    assert await client.wait_for_bytes(6) == b"answer"
    client.transport.close()
    await server.wait_for("lost")
    assert server.error is None


async def test_what_breaks_one_session_is_nothing_to_the_others() -> None:
    healthy, broken = await Session(*contexts()).ready(), await Session(*contexts()).ready()
    broken.client_end.write(b"\x17\x03\x03\x00\x20" + bytes(32) + WHOLE * 3)
    await broken.server.wait_for("lost")
    assert isinstance(broken.server.error, TLSFailed)
    healthy.client.transport.write(b"question")
    assert await healthy.server.wait_for_bytes(8) == b"question"


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x03\x03\x00\x20", b"\x17\x02\x03\x00\x20", b"\x17\x03\x03\x48\x01"],
    ids=["no TLS", "no such type", "no such version", "too long"],
)
async def test_what_can_never_become_a_record_is_refused_before_its_end(garbage: bytes) -> None:
    session = await Session(*contexts()).ready()
    session.client_end.write(garbage)
    await session.server.wait_for("lost")
    assert isinstance(session.server.error, TLSFailed)


async def test_an_incomplete_record_is_waited_for() -> None:
    session = await Session(*contexts()).ready()
    session.client_end.write(WHOLE[:7])
    await settle()
    assert session.server.heard == ["made"]
    session.client_end.write(WHOLE[7:])  # whole, and not sealed by the peer
    await session.server.wait_for("lost")
    assert isinstance(session.server.error, TLSFailed)


def test_what_comes_behind_the_handshake_is_handed_back() -> None:
    client, server = (
        TLSEngine(contexts()[0], server_side=False, server_hostname=HOST),
        TLSEngine(contexts()[1], server_side=True, server_hostname=None),
    )
    assert client.handshake(b"") is None
    assert server.handshake(client.sealed) is None
    client.sealed = b""
    assert client.handshake(server.sealed) == b""
    client.seal(b"early bird")
    rest = server.handshake(client.sealed)
    assert rest
    assert end_of_record(rest, 0) == len(rest)
    assert server.open(rest) == b"early bird"


@pytest.mark.parametrize(
    ("data", "start", "end"),
    [
        (b"", 0, 0),
        (WHOLE[:4], 0, 0),
        (WHOLE[:7], 0, 0),
        (WHOLE, 0, 8),
        (WHOLE + WHOLE[:6], 0, 8),
        (WHOLE + WHOLE[:6], 8, 0),
        (WHOLE + WHOLE, 8, 16),
        (b"\x17\x03\x03\x48\x00" + bytes(100), 0, 0),
        (b"\x17\x03\x03\x48\x01" + bytes(100), 0, 105),
        (b"GET / HTTP/1.1", 0, 14),
    ],
)
def test_the_end_of_a_record_is_found_from_its_header(data: bytes, start: int, end: int) -> None:
    assert end_of_record(data, start) == end
