"""Three nodes as processes, under load: one is killed, all are restarted, and the calls are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.edge import OperatorFiles
from tests.support.edge_field import Field, field_of_three
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow


@pytest.fixture
async def scene(files: OperatorFiles, tmp_path: Path) -> AsyncIterator[Field]:
    async with field_of_three(tmp_path, files) as scene:
        yield scene


@requirement("edge:kill", "edge:spread")
async def test_a_node_killed_under_load_costs_only_what_was_in_flight(scene: Field) -> None:
    before = scene.nodes_of_connections()
    assert len(set(before)) >= 2
    lost_connections = before.count("node-1")
    killed = await scene.kill_one(before=200, after=400)
    load = scene.load
    assert len(load.lost) <= load.callers, "at most one call of each session was under way"
    assert all(moment >= killed for moment, _ in load.lost)
    assert all(reason for _, reason in load.lost), "each says how its session ended"
    await scene.connected(4 + lost_connections)
    assert len(set(scene.nodes_of_connections())) == 2, "the two that are left share what was lost"


@requirement("edge:rolling-restart")
async def test_a_rolling_restart_of_all_nodes_loses_no_call(scene: Field) -> None:
    assert await scene.restart_all(between=200) == [0, 0, 0]
    assert scene.load.lost == []
