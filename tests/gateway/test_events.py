"""What the gateway tells the control plane: in batches, bounded, and kept while nobody listens."""

from __future__ import annotations

import asyncio

import pytest

from qanat.api import event_backlog
from qanat.api.control_client import ControlUnavailable
from qanat.api.internal import EventBatch
from qanat.client import TunnelFailed
from qanat.clock import SystemClock
from qanat.gateway.events import EventQueue
from qanat.gateway.hops import hop_of, hop_of_answer, in_words
from qanat.gateway.metrics import Metrics
from qanat.ids import TunnelID
from tests.support.requirements import requirement

TUNNEL = TunnelID("tnl_01a")


class Sink:
    """Stores batches, unless it is down."""

    def __init__(self, down: bool = False) -> None:
        self.down, self.batches = down, list[EventBatch]()
        self.heard = asyncio.Event()

    async def send_events(self, batch: EventBatch) -> None:
        if self.down:
            raise ControlUnavailable("down")
        self.batches.append(batch)
        self.heard.set()

    def numbers(self) -> list[object]:
        return [event.fields["n"] for batch in self.batches for event in batch.events]


def queue() -> tuple[EventQueue, Metrics]:
    metrics = Metrics()
    return EventQueue("gw-1", SystemClock(), metrics), metrics


def dropped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("qanat_gateway_events_dropped_total")


@requirement("console:events")
async def test_events_are_handed_over_in_batches_in_their_order() -> None:
    waiting, metrics = queue()
    for number in range(1500):
        waiting.emit("call", TUNNEL, n=number)
    sink = Sink()
    await waiting.flush(sink)
    assert [len(batch.events) for batch in sink.batches] == [1000, 500]
    assert sink.numbers() == list(range(1500))
    assert dropped(metrics) == 0


@requirement("console:events")
async def test_while_the_control_plane_is_down_the_newest_are_kept_and_the_rest_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_backlog, "MAX_QUEUE", 5)
    waiting, metrics = queue()
    for number in range(8):
        waiting.emit("call", TUNNEL, n=number)
    sink = Sink(down=True)
    with pytest.raises(ControlUnavailable):
        await waiting.flush(sink)
    sink.down = False
    await waiting.flush(sink)
    assert sink.numbers() == [3, 4, 5, 6, 7]
    assert dropped(metrics) == 3


async def test_a_bug_in_the_telling_does_not_end_it() -> None:
    class Buggy(Sink):
        """Breaks the first time."""

        broken = False

        async def send_events(self, batch: EventBatch) -> None:
            if not self.broken:
                self.broken = True
                raise ZeroDivisionError
            await super().send_events(batch)

    waiting, _ = queue()
    sink = Buggy()
    task = asyncio.create_task(waiting.run(sink))
    waiting.emit("call", TUNNEL, n=1)
    await asyncio.wait_for(sink.heard.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sink.numbers() == [1]


async def test_a_batch_whose_answer_was_lost_is_told_again_unchanged_and_under_its_id() -> None:
    class Mute(Sink):
        """Stores every batch, and answers the first time that it could not."""

        async def send_events(self, batch: EventBatch) -> None:
            await super().send_events(batch)
            if len(self.batches) == 1:
                raise ControlUnavailable("no answer")

    waiting, _ = queue()
    waiting.emit("call", TUNNEL, n=1)
    sink = Mute()
    with pytest.raises(ControlUnavailable):
        await waiting.flush(sink)
    waiting.emit("call", TUNNEL, n=2)
    await waiting.flush(sink)
    assert sink.numbers() == [1, 1, 2]
    first, again, other = sink.batches
    assert first == again
    assert len({first.id, other.id, ""}) == 3


async def test_what_is_emitted_later_is_handed_over_by_itself() -> None:
    waiting, _ = queue()
    sink = Sink()
    running = asyncio.create_task(waiting.run(sink))
    try:
        waiting.emit("call", TUNNEL, n=1)
        async with asyncio.timeout(30):
            await sink.heard.wait()
        assert sink.numbers() == [1]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_the_hop_is_read_from_what_the_tunnel_says() -> None:
    assert hop_of(TunnelFailed("proxy_unreachable", "connector", "x")) == "proxy"
    assert hop_of(TunnelFailed("no_connector", "connector", "x")) == "connector"
    assert hop_of_answer({"x-mcp-proxy-error": "upstream_connect"}) == ("upstream", "upstream_connect")
    assert in_words("upstream_connect") == "the MCP server cannot be connected to (upstream_connect)"
    assert in_words("overloaded") == "the proxy refuses the request (overloaded)"
    assert hop_of_answer({"x-mcp-proxy-error": "no_route"}) == ("proxy", "no_route")
    assert hop_of_answer({"content-type": "text/plain"}) is None
