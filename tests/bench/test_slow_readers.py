"""Large transfers to slow readers through the real programs: none stalls, and the edge does not grow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bench.chains import Chain
from bench.stage import stage
from bench.workloads import MB, measure

MAX_GROWTH = 32 * MB


@pytest.fixture
def chain() -> Iterator[Chain]:
    with stage() as make_builder:
        chain = make_builder(10).build("join")
        try:
            yield chain
        finally:
            chain.processes.stop()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_slow_readers_get_everything_and_one_that_sleeps_costs_the_edge_little(chain: Chain) -> None:
    job = {
        "kind": "slow",
        "bytes": 64 * MB,
        "times": 4,
        "at_once": 2,
        "rest_after": 8 * MB,
        "rest_for": 0.005,
        "receive_buffer": 4096,
    }
    found = measure(chain, job)
    assert found.calls == 5
    assert found.failed == 0
    assert found.bytes == 5 * 64 * MB
    assert found.memory_by_role["edge"] < MAX_GROWTH
    assert found.memory_by_role["join"] < MAX_GROWTH
