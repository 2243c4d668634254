"""What an edge knows of tunnels: asked once, kept while the control plane is away, never older than a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest

from qanat.api import event_backlog
from qanat.api.internal import Change, TunnelRecord
from qanat.clock import SystemClock
from qanat.edge.cache import CachedDirectory
from qanat.edge.errors import DirectoryUnavailable
from qanat.edge.events import EventQueue
from qanat.edge.metrics import Metrics
from tests.support.edge import TIMEOUT, ControlDown, DictDirectory, make_tunnel


class SlowDirectory(DictDirectory):
    """Answers by uuid only when told to, with what was true when it was asked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def by_uuid(self, uuid: UUID) -> TunnelRecord | None:
        record = await super().by_uuid(uuid)
        self.asked.set()
        await self.go.wait()
        return record


@asynccontextmanager
async def following(cache: CachedDirectory) -> AsyncIterator[None]:
    task = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(TIMEOUT):
            while not cache.following:  # noqa: ASYNC110 - a plain flag
                await asyncio.sleep(0)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_many_who_ask_at_once_cost_one_question() -> None:
    directory = SlowDirectory()
    tunnel = directory.add(make_tunnel())
    cache = CachedDirectory(directory, lambda _: None)
    asking = [asyncio.create_task(cache.by_uuid(tunnel.record.uuid)) for _ in range(50)]
    await directory.asked.wait()
    directory.go.set()
    assert await asyncio.gather(*asking) == [tunnel.record] * 50
    assert cache.known_by_domain(tunnel.record.domain) == tunnel.record
    assert directory.questions == 1


async def test_an_answer_that_a_change_overtakes_is_asked_for_again() -> None:
    directory = SlowDirectory()
    tunnel = directory.add(make_tunnel())
    cache = CachedDirectory(directory, lambda _: None)
    async with following(cache):
        asking = asyncio.create_task(cache.by_uuid(tunnel.record.uuid))
        await directory.asked.wait()
        archived = tunnel.record.model_copy(update={"archived": True})
        await directory.change(archived)
        async with asyncio.timeout(TIMEOUT):
            while not cache._overtaken:  # noqa: ASYNC110 - a plain set
                await asyncio.sleep(0)
        directory.go.set()
        assert await asking == archived


async def test_what_does_not_exist_is_not_asked_for_again_at_once() -> None:
    directory = DictDirectory()
    cache = CachedDirectory(directory, lambda _: None)
    tunnel = make_tunnel()
    async with following(cache):
        for _ in range(5):
            assert await cache.by_domain(tunnel.record.domain) is None
        assert directory.questions == 1
        await directory.change(tunnel.record)  # created: the change says so
        async with asyncio.timeout(TIMEOUT):
            while await cache.by_domain(tunnel.record.domain) is None:  # noqa: ASYNC110 - asking is the wait
                await asyncio.sleep(0)


async def test_after_a_reset_tunnels_in_use_are_looked_at_again_at_once() -> None:
    directory = DictDirectory()
    used, unused = directory.add(make_tunnel()), directory.add(make_tunnel("b2c3d4e5"))
    heard: list[TunnelRecord] = []
    cache = CachedDirectory(directory, heard.append, lambda: [used.record.uuid])
    for tunnel in (used, unused):
        await cache.by_uuid(tunnel.record.uuid)
    await cache._apply(Change(cursor=7, kind="reset"))
    assert heard == [used.record]
    cache.following = True
    assert cache.known_by_domain(unused.record.domain) is None
    assert await cache.by_domain(unused.record.domain) == unused.record


async def test_a_change_that_cannot_be_applied_does_not_end_the_following() -> None:
    directory = DictDirectory()
    tunnel = directory.add(make_tunnel())
    heard: list[TunnelRecord] = []

    def hear(record: TunnelRecord) -> None:
        heard.append(record)
        if len(heard) == 1:
            raise RuntimeError("a bug in whoever listens")

    cache = CachedDirectory(directory, hear)
    async with following(cache):
        assert await cache.by_uuid(tunnel.record.uuid) == tunnel.record
        await directory.change(tunnel.record.model_copy(update={"secret_sha256": "1" * 64}))
        async with asyncio.timeout(TIMEOUT):
            while not heard:  # noqa: ASYNC110 - a plain list
                await asyncio.sleep(0)
        rotated = tunnel.record.model_copy(update={"secret_sha256": "2" * 64})
        await directory.change(rotated)
        async with asyncio.timeout(TIMEOUT):
            while heard[-1] != rotated:  # noqa: ASYNC110 - a plain list
                await asyncio.sleep(0)


async def test_an_unknown_tunnel_cannot_be_served_without_the_control_plane() -> None:
    directory = DictDirectory()
    await directory.stop()
    with pytest.raises(DirectoryUnavailable):
        await CachedDirectory(directory, lambda _: None).by_domain("a.example")


async def test_events_wait_out_an_outage_and_the_oldest_are_dropped_beyond_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_backlog, "MAX_QUEUE", 3)
    metrics, directory = Metrics(), DictDirectory()
    queue = EventQueue("node", SystemClock(), metrics)
    await directory.stop()
    for number in range(5):
        queue.emit("connector_lost", None, number=number)
    with pytest.raises(ControlDown):
        await queue.flush(directory)
    directory.up = True
    await queue.flush(directory)
    await queue.flush(directory)
    lost = [event for event in directory.events if event.kind == "connector_lost"]
    assert [event.fields["number"] for event in lost] == [2, 3, 4]
    assert metrics.registry.get_sample_value("qanat_edge_events_dropped_total") == 2
    assert all(event.time <= datetime.now(UTC) and event.node == "node" for event in directory.events)
