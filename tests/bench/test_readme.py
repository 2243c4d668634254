"""What the README quotes is what was measured last."""

from __future__ import annotations

import json

import pytest
from bench.goals import GOALS, to_medians, to_samples

from bench import readme

RESULT = {
    "chain": "join",
    "workload": "calls, 32 sessions",
    "round": 0,
    "wall": 2.0,
    "cpu": 1.0,
    "calls": 1000,
    "failed": 0,
    "events": 0,
    "bytes": 0,
    "p50": 0.001,
    "p99": 0.002,
    "expected": 1000,
    "load_busy": 0.3,
    "upstream_busy": 0.1,
    "memory": 10_000_000,
    "memory_before": 9_000_000,
    "cpu_by_role": {"edge": 0.4, "join": 0.6},
    "memory_by_role": {"edge": 500_000, "join": 500_000},
}
MACHINE = {"date": "2026-08-01T10:00:00+00:00", "cpu": "Some CPU", "cores": "2", "kernel": "6", "python": "3.11.7"}


def test_the_readme_quotes_the_newest_full_run() -> None:
    path = readme.newest_full()
    document = json.loads(path.read_text()) if path else None
    expected = readme.render(document, path.stem if path else "")
    text = (readme.ROOT / "README.md").read_text()
    assert text.partition(readme.BEGIN)[2].partition(readme.END)[0].strip() == expected, "run `python -m bench.readme`"


def test_a_missed_goal_is_called_missed_and_one_without_a_measurement_not_measured() -> None:
    slower = {**RESULT, "chain": "cloudflared", "wall": 3.0}
    text = readme.render({"machine": MACHINE, "rounds": 5, "failures": [], "results": [RESULT, slower]}, "x")
    rows = text.splitlines()
    assert "| >= 2 | 1.50 | **missed** |" in next(row for row in rows if row.startswith("| calls/s, 32"))
    assert "| not measured |" in next(row for row in rows if "nginx" in row)


def test_failed_measurements_are_counted_in_the_readme() -> None:
    text = readme.render({"machine": MACHINE, "rounds": 5, "failures": ["ssh: gone"], "results": [RESULT]}, "x")
    assert "1 measurements failed" in text


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    before = f"# Title\n{readme.BEGIN}\nold\n{readme.END}\nrest\n"
    assert readme.rewrite(before, "new") == f"# Title\n{readme.BEGIN}\nnew\n{readme.END}\nrest\n"
    with pytest.raises(ValueError, match="markers"):
        readme.rewrite("# Title\n", "new")


def test_the_median_of_the_rounds_counts() -> None:
    rounds = [{**RESULT, "cpu": cpu} for cpu in (9.0, 1.0, 2.0)]
    assert to_medians(to_samples(rounds))["calls, 32 sessions", "join"]["cpu_per_unit"] == pytest.approx(0.002)


def test_a_ratio_is_of_one_turn_and_its_median_counts() -> None:
    walls = {"join": (1.0, 4.0, 1.0), "cloudflared": (2.0, 12.0, 4.0)}  # the machine was slow in the second turn
    results = [{**RESULT, "chain": chain, "wall": wall} for chain, found in walls.items() for wall in found]
    assert GOALS[0].value(to_samples(results)) == pytest.approx(3.0)  # of 2, 3 and 4; by the medians it would be 4
    assert GOALS[0].value(to_samples(results[:-1])) == pytest.approx(24 / 7)  # a turn is missing: of the medians


def test_events_that_did_not_arrive_are_seen() -> None:
    lossy = {**RESULT, "workload": "events, 200 streams", "events": 9_999, "expected": 10_000}
    goal = next(goal for goal in GOALS if goal.name == "share of the events that arrived, 200 streams")
    value = goal.value(to_samples([lossy]))
    assert value is not None
    assert goal.met is not None
    assert not goal.met(value)
