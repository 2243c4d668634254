"""Two transports joined: bytes, back-pressure and the end pass from one to the other."""

from __future__ import annotations

import asyncio

import pytest

from qanat.net.layer import HIGH_WATER
from qanat.net.memory import MemoryTransport, memory_pair
from qanat.net.splice import Splice, splice
from tests.support.recorder import Recorder, settle


class Relay:
    """Two far ends with a splice between them."""

    def __init__(self) -> None:
        self.left, self.right = Recorder(), Recorder()
        self.near_left, self.left_end = memory_pair(Recorder(), self.left)
        self.near_right, self.right_end = memory_pair(Recorder(), self.right)
        self.ends = splice(self.near_left, self.near_right)


async def test_bytes_pass_both_ways_and_are_counted() -> None:
    relay = Relay()
    relay.left_end.write(b"question")
    relay.right_end.write(b"answer")
    assert await relay.right.wait_for_bytes(8) == b"question"
    assert await relay.left.wait_for_bytes(6) == b"answer"
    assert [end.bytes_received for end in relay.ends] == [8, 6]


async def test_a_slow_reader_stops_the_source_and_bounds_what_is_queued() -> None:
    relay = Relay()
    relay.right_end.pause_reading()
    sent = 0
    while "paused" not in relay.left.heard:
        relay.left_end.write(bytes(65536))
        sent += 65536
        await settle()
        assert sent < 64 * HIGH_WATER, "the source was never stopped"
    assert not relay.near_left.is_reading()
    queued = relay.near_right.get_write_buffer_size() + relay.left_end.get_write_buffer_size()
    assert queued <= 2 * HIGH_WATER + 2 * 65536
    relay.right_end.resume_reading()
    assert len(await relay.right.wait_for_bytes(sent)) == sent
    await relay.left.wait_for("resumed")
    assert relay.near_left.is_reading()


@pytest.mark.parametrize("side", ["left", "right"])
async def test_the_end_of_one_side_ends_the_other_after_what_was_sent(side: str) -> None:
    relay = Relay()
    here, there = (relay.left_end, relay.right) if side == "left" else (relay.right_end, relay.left)
    here.write(b"last words")
    here.close()
    await there.wait_for("lost")
    assert bytes(there.data) == b"last words"
    assert there.error is None


async def test_a_reset_of_one_side_resets_the_other() -> None:
    relay = Relay()
    relay.left_end.abort()
    await relay.right.wait_for("lost")
    assert isinstance(relay.right.error, ConnectionResetError)


async def test_the_owner_hears_of_the_end_once() -> None:
    lost: list[Exception | None] = []
    near, far = Recorder(), Recorder()
    end, _ = memory_pair(near, far)
    other, _ = memory_pair(Recorder(), Recorder())
    watched, peer = Splice(lost.append), Splice()
    watched.peer, peer.peer = peer, watched
    watched.transport, peer.transport = end, other
    end.set_protocol(watched)
    other.set_protocol(peer)
    far.transport.close()
    await asyncio.sleep(0)
    await settle()
    assert lost == [None]
    assert isinstance(other, MemoryTransport)
    assert other.is_closing()
