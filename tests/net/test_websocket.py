"""WebSocket as a layer: a byte stream over frames, its end, and what a peer that breaks the rules gets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanat.net import websocket
from qanat.net.errors import WebSocketClosed
from qanat.net.layer import HIGH_WATER
from qanat.net.memory import memory_pair
from qanat.net.websocket import GOING_AWAY_NOTICE, MAX_UNHEARD, WebSocketClient, WebSocketServer
from qanat.wire.errors import WebSocketViolation
from qanat.wire.websocket import CloseReceived, PingReceived, PongReceived, WebSocketCodec, WebSocketEvent
from tests.support.jumping_clock import JumpingLoop, run_jumping
from tests.support.recorder import Recorder, settle


class Pair:
    """A client and a server layer, each with a recorder on top."""

    def __init__(self) -> None:
        self.client, self.server = Recorder(), Recorder()
        self.client_layer, self.server_layer = WebSocketClient(self.client), WebSocketServer(self.server)
        self.client_end, self.server_end = memory_pair(self.client_layer, self.server_layer)


class Peer:
    """A server layer, and a client that writes frames by hand."""

    def __init__(self) -> None:
        self.above, self.raw = Recorder(), Recorder()
        self.layer = WebSocketServer(self.above)
        _, self.end = memory_pair(self.layer, self.raw)
        self.codec = WebSocketCodec(lambda: b"mask")

    def send(self) -> None:
        self.end.write(self.codec.data_to_send())

    async def events(self, count: int) -> list[WebSocketEvent]:
        """The first `count` events of what the layer sends."""
        found: list[WebSocketEvent] = []
        seen = 0
        while len(found) < count:
            await self.raw.wait_for_bytes(seen + 1)
            self.codec.receive_data(bytes(self.raw.data[seen:]))
            seen = len(self.raw.data)
            found += self.codec.events_received()
        return found


async def test_bytes_pass_both_ways() -> None:
    pair = Pair()
    pair.client.transport.write(b"question")
    pair.server.transport.write(b"answer")
    assert await pair.server.wait_for_bytes(8) == b"question"
    assert await pair.client.wait_for_bytes(6) == b"answer"


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_close_is_a_clean_end_for_both(side: str) -> None:
    pair = Pair()
    here, there = (pair.client, pair.server) if side == "client" else (pair.server, pair.client)
    here.transport.write(b"last words")
    here.transport.close()
    await there.wait_for("lost")
    await here.wait_for("lost")
    assert bytes(there.data) == b"last words"
    assert there.heard == ["made", "eof", "lost"]
    assert (here.error, there.error) == (None, None)


async def test_an_end_without_a_close_frame_is_told_from_a_clean_one() -> None:
    pair = Pair()
    pair.client_end.close()
    await pair.server.wait_for("lost")
    assert isinstance(pair.server.error, WebSocketClosed)
    assert pair.server.error.close_code == 1006


async def test_a_ping_is_answered_with_its_own_payload() -> None:
    peer = Peer()
    peer.codec.send_ping(b"are you there")
    peer.send()
    assert await peer.events(1) == [PongReceived(b"are you there")]


async def test_a_broken_rule_ends_the_session_with_its_code() -> None:
    peer = Peer()
    peer.end.write(b"\x81\x80mask")  # a text message
    (close,) = await peer.events(1)
    assert isinstance(close, CloseReceived)
    assert close.close_code == 1003
    await peer.above.wait_for("lost")
    assert isinstance(peer.above.error, WebSocketViolation)


async def test_a_close_for_a_reason_is_heard_as_one() -> None:
    peer = Peer()
    peer.codec.send_close(1011, "proxy failed")
    peer.send()
    await peer.above.wait_for("lost")
    assert isinstance(peer.above.error, WebSocketClosed)
    assert (peer.above.error.close_code, peer.above.error.reason) == (1011, "proxy failed")


async def test_what_arrives_after_our_close_is_not_delivered() -> None:
    peer = Peer()
    peer.above.transport.close()
    peer.codec.send_payload(b"too late")
    peer.codec.send_close(1000)
    peer.send()
    await peer.above.wait_for("lost")
    assert peer.above.data == b""


async def test_a_peer_that_never_answers_our_close_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.02)
    peer = Peer()
    peer.above.transport.close()
    await peer.above.wait_for("lost")
    await peer.raw.wait_for("lost")
    assert isinstance(peer.raw.error, ConnectionResetError)


async def test_a_paused_reader_still_hears_the_close() -> None:
    peer = Peer()
    peer.above.transport.pause_reading()
    peer.above.transport.close()
    peer.codec.send_close(1000)
    peer.send()
    await peer.above.wait_for("lost")


async def test_the_layer_pings_by_itself_and_gives_up_a_silent_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "PING_EVERY", 0.01)
    peer = Peer()
    assert await peer.events(MAX_UNHEARD) == [PingReceived(b"")] * MAX_UNHEARD
    await peer.above.wait_for("lost")
    assert isinstance(peer.above.error, WebSocketClosed)
    assert "nothing heard" in str(peer.above.error)


def test_a_loop_that_stood_still_does_not_take_its_peer_for_gone() -> None:
    async def run() -> None:
        loop, pair = asyncio.get_running_loop(), Pair()
        assert isinstance(loop, JumpingLoop)
        await pair.client.wait_for("made")
        for _ in range(2):
            loop.jump(1000.0)
            pair.client.transport.write(b"still here")
            await pair.server.wait_for_bytes(10)
            pair.server.data.clear()
        assert "lost" not in pair.client.heard + pair.server.heard

    run_jumping(run())


async def test_the_edges_notice_is_noted_and_answered_like_any_ping() -> None:
    peer = Peer()
    assert peer.above.transport.get_extra_info("going_away") is False
    peer.codec.send_ping(GOING_AWAY_NOTICE)
    peer.send()
    assert await peer.events(1) == [PongReceived(GOING_AWAY_NOTICE)]
    assert peer.above.transport.get_extra_info("going_away") is True


async def test_a_slow_reader_stops_the_writer() -> None:
    pair = Pair()
    pair.server.transport.pause_reading()
    sent = 0
    while "paused" not in pair.client.heard:
        pair.client.transport.write(bytes(50_000))
        sent += 50_000
        await settle()
        assert sent <= 4 * HIGH_WATER, "the writer was never stopped"
    pair.server.transport.resume_reading()
    assert len(await pair.server.wait_for_bytes(sent)) == sent
    await pair.client.wait_for("resumed")


@given(st.lists(st.binary(min_size=1, max_size=70_000), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_any_sequence_of_writes_arrives_as_one_stream(pieces: list[bytes]) -> None:
    async def send() -> bytes:
        pair = Pair()
        for piece in pieces:
            pair.client.transport.write(piece)
        pair.client.transport.close()
        await pair.server.wait_for("lost")
        await pair.client.wait_for("lost")
        return bytes(pair.server.data)

    assert asyncio.run(send()) == b"".join(pieces)


async def test_a_peer_that_pings_and_never_reads_does_not_fill_our_memory() -> None:
    peer = Peer()
    peer.end.pause_reading()
    below = peer.layer.below
    for _ in range(40):
        for _ in range(500):
            peer.codec.send_ping(bytes(125))
        peer.send()
        await settle()
    assert below.get_write_buffer_size() <= 2 * HIGH_WATER
    peer.end.resume_reading()
    await peer.events(1)
    peer.codec.send_ping(b"still there?")
    peer.send()
    await peer.raw.wait_until(lambda: peer.raw.data.endswith(b"still there?"))


@pytest.mark.parametrize("ending", [b"\x88\x82\x00\x00\x00\x00\x03\xe8", b"\x81\x80mask"])
async def test_a_peer_that_ends_and_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch, ending: bytes) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.02)
    peer = Peer()
    peer.end.pause_reading()
    peer.above.transport.write(bytes(HIGH_WATER))
    peer.end.write(ending)
    await peer.above.wait_for("lost")
