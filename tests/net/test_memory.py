"""The in-memory pair has a socket's manners: it is what every layer is tested over."""

from __future__ import annotations

from qanat.net.layer import HIGH_WATER, Layer
from qanat.net.memory import memory_pair
from tests.support.recorder import Recorder, settle


async def test_what_one_end_writes_the_other_hears_later_and_in_order() -> None:
    a, b = Recorder(), Recorder()
    end, _ = memory_pair(a, b)
    end.write(b"one ")
    end.writelines([b"two ", b"three"])
    assert b.data == b""  # never inside write
    assert await b.wait_for_bytes(13) == b"one two three"


async def test_a_paused_reader_fills_its_feeder_up_and_then_stops_it() -> None:
    a, b = Recorder(), Recorder()
    end_a, end_b = memory_pair(a, b)
    end_b.pause_reading()
    end_a.write(bytes(HIGH_WATER))
    assert a.heard == ["made"]
    end_a.write(b"x")
    assert a.heard == ["made", "paused"]
    await settle()
    assert b.data == b""
    assert end_a.get_write_buffer_size() == HIGH_WATER + 1
    end_b.resume_reading()
    await b.wait_for_bytes(HIGH_WATER + 1)
    assert a.heard == ["made", "paused", "resumed"]


async def test_closing_delivers_what_was_written_before() -> None:
    a, b = Recorder(), Recorder()
    end, _ = memory_pair(a, b)
    end.write(b"last words")
    end.close()
    end.write(b"too late")
    await b.wait_for("lost")
    assert (bytes(b.data), b.heard, b.error) == (b"last words", ["made", "eof", "lost"], None)
    assert (a.heard, a.error) == (["made", "lost"], None)


async def test_an_abort_loses_what_was_written_and_the_peer_hears_a_reset() -> None:
    a, b = Recorder(), Recorder()
    end, _ = memory_pair(a, b)
    end.write(b"lost")
    end.abort()
    await b.wait_for("lost")
    assert bytes(b.data) == b""
    assert isinstance(b.error, ConnectionResetError)
    assert a.error is None


async def test_a_half_close_is_heard_as_an_end_and_answered_by_closing() -> None:
    a, b = Recorder(), Recorder()
    end, _ = memory_pair(a, b)
    end.write(b"question")
    end.write_eof()
    await b.wait_for("lost")
    assert bytes(b.data) == b"question"
    assert b.heard == ["made", "eof", "lost"]
    await a.wait_for("lost")


async def test_a_layer_that_changes_nothing_passes_everything_through() -> None:
    above, peer = Recorder(), Recorder()
    layer = Layer(above)
    _, far = memory_pair(layer, peer, {"peername": "somebody"})
    assert above.transport.get_extra_info("peername") == "somebody"
    above.transport.write(b"down")
    far.write(b"up")
    assert await peer.wait_for_bytes(4) == b"down"
    assert await above.wait_for_bytes(2) == b"up"
    far.pause_reading()
    above.transport.write(bytes(HIGH_WATER + 1))
    assert above.heard == ["made", "paused"]
    far.resume_reading()
    await above.wait_for("resumed")
    above.transport.close()
    await above.wait_for("lost")
    assert above.heard.count("lost") == 1
