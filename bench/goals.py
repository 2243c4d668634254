"""What we hold ourselves to: ratios of what was measured in one turn, seconds apart, and their median over a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.measure import median

Samples = dict[tuple[str, str], dict[str, list[float]]]
"""(workload, chain) to what was measured of each quantity, in the order in which the candidates took turns."""
Medians = dict[tuple[str, str], dict[str, float]]
Value = Callable[[Samples], list[float]]
"""A number for each turn; none where a side of it was not measured."""

CALLS_1, CALLS_32, DOWN, SLOW = (
    "calls, 1 session",
    "calls, 32 sessions",
    "64 MB down",
    "64 MB down, 20 times, slow readers",
)
EVENTS_200, EVENTS_1000 = "events, 200 streams", "events, 1000 streams"
TUNNELS = ("join", "single", "apart", "cloudflared", "relay", "ssh")


@dataclass(frozen=True)
class Goal:
    """A quantity and its bound; `met` is None for information."""

    name: str
    wanted: str
    each: Value
    met: Callable[[float], bool] | None = None

    def value(self, samples: Samples) -> float | None:
        """The median; None when a side of it was not measured."""
        found = self.each(samples)
        return median(found) if found else None


def to_samples(results: list[dict[str, Any]]) -> Samples:
    """Every quantity, turn by turn."""
    gathered: Samples = defaultdict(lambda: defaultdict(list))
    for result in results:
        for name, value in _quantities(result).items():
            gathered[result["workload"], result["chain"]][name].append(value)
    return gathered


def to_medians(samples: Samples) -> Medians:
    """The median over turns of every quantity."""
    return {key: {name: median(values) for name, values in found.items()} for key, found in samples.items()}


def _quantities(result: dict[str, Any]) -> dict[str, float]:
    workload = result["workload"]
    units = result["events"] if workload.startswith("events") else result["calls"]
    found = {
        "calls_per_second": result["calls"] / result["wall"],
        "cpu_per_unit": result["cpu"] / max(units, 1),
        "p50": result["p50"],
        "p99": result["p99"],
        "arrived": units / result["expected"],
        "load_busy": result["load_busy"],
        "upstream_busy": result["upstream_busy"],
        "memory": float(result["memory"]),
        **{f"cpu_{name}": value / max(units, 1) for name, value in result["cpu_by_role"].items()},
        **{f"grown_{name}": float(value) for name, value in result["memory_by_role"].items()},
    }
    if workload.startswith("64 MB"):
        megabytes = 64.0 * result["calls"]
        found |= {"mb_per_second": megabytes / result["wall"], "cpu_per_mb": result["cpu"] / megabytes}
    if workload.startswith(("idle", "events")):
        sessions = int(workload.split()[1])
        found["kb_per_session"] = (result["memory"] - result["memory_before"]) / sessions / 1024
    return found


def one(workload: str, quantity: str, chain: str, scale: float = 1.0) -> Value:
    """A quantity as it is."""
    return lambda samples: [value * scale for value in samples.get((workload, chain), {}).get(quantity, [])]


def quotient(workload: str, quantity: str, ours: str, other: str) -> Value:
    """A quantity of ours divided by the same of another chain."""
    return ratio(one(workload, quantity, ours), one(workload, quantity, other))


def ratio(above: Value, below: Value) -> Value:
    """One value divided by another, turn by turn: what the machine does meanwhile happens to both."""
    return lambda samples: [a / b for a, b in _pairs(above(samples), below(samples)) if b]


def added(quantity: str, ours: str, other: str) -> Value:
    """Latency added over no chain at all, ours against another's."""
    mine, theirs, least = (one(CALLS_1, quantity, name) for name in (ours, other, "direct"))
    return ratio(_above(mine, least), _above(theirs, least))


def _above(value: Value, least: Value) -> Value:
    return lambda samples: [max(a - b, 0.0) for a, b in _pairs(value(samples), least(samples))]


def _pairs(one: list[float], other: list[float]) -> list[tuple[float, float]]:
    """What belongs to the same turn; the medians where some turns failed, for then nobody knows which."""
    if len(one) == len(other):
        return list(zip(one, other, strict=True))
    return [(median(one), median(other))] if one and other else []


def busiest(quantity: str) -> Value:
    """The largest of a quantity over all that was timed through a tunnel; slow readers are not about speed."""
    return lambda samples: [
        max((median(each[quantity]) for (load, chain), each in samples.items() if chain in TUNNELS and load != SLOW),
            default=0.0)
    ]  # fmt: skip


def at_least(bound: float) -> Callable[[float], bool]:
    """At or above the bound."""
    return lambda value: value >= bound


def at_most(bound: float) -> Callable[[float], bool]:
    """At or below the bound."""
    return lambda value: value <= bound


_KNOWN = "calls, 32 sessions, {} tunnels known"

GOALS = (
    Goal("calls/s, 32 sessions, `join` against stock cloudflared and our proxy", ">= 2",
         quotient(CALLS_32, "calls_per_second", "join", "cloudflared"), at_least(2)),
    Goal("the same of `join` as a single process", "for information",
         quotient(CALLS_32, "calls_per_second", "single", "cloudflared")),
    Goal("CPU per call, `join` against stock cloudflared and our proxy", "<= 0.5",
         quotient(CALLS_32, "cpu_per_unit", "join", "cloudflared"), at_most(0.5)),
    Goal("added latency, 1 session, p50, same pair", "<= 0.75", added("p50", "join", "cloudflared"), at_most(0.75)),
    Goal("added latency, 1 session, p99, same pair", "<= 0.8", added("p99", "join", "cloudflared"), at_most(0.8)),
    Goal("CPU per call, our connector against cloudflared, same edge and proxy", "<= 0.4",
         quotient(CALLS_32, "cpu_connector", "apart", "cloudflared"), at_most(0.4)),
    Goal("CPU per request, our proxy against nginx", "<= 1.6",
         quotient(CALLS_32, "cpu_per_unit", "proxy", "nginx"), at_most(1.6)),
    Goal("CPU per new session with its first request, same pair", "for information",
         quotient("new session and call", "cpu_per_unit", "proxy", "nginx")),
    Goal("CPU for 64 MB down, same pair", "for information", quotient(DOWN, "cpu_per_unit", "proxy", "nginx")),
    Goal("64 MB down, MB/s, `join` against haproxy twice", ">= 0.6",
         quotient(DOWN, "mb_per_second", "join", "haproxy"), at_least(0.6)),
    Goal("64 MB up, MB/s, `join` against haproxy twice", "for information",
         quotient("64 MB up", "mb_per_second", "join", "haproxy")),
    Goal("CPU per event, 200 streams, `join` against cloudflared", "<= 0.7",
         quotient(EVENTS_200, "cpu_per_unit", "join", "cloudflared"), at_most(0.7)),
    Goal("CPU per event, 1,000 streams, same pair", "for information",
         quotient(EVENTS_1000, "cpu_per_unit", "join", "cloudflared")),
    Goal("share of the events that arrived, 200 streams", "1", one(EVENTS_200, "arrived", "join"), at_least(1)),
    Goal("share of the events that arrived, 1,000 streams", "1", one(EVENTS_1000, "arrived", "join"), at_least(1)),
    Goal("KB for each idle session, edge + connector + proxy, of 1,000", "<= 55",
         one("idle, 1000 sessions", "kb_per_session", "join"), at_most(55)),
    Goal("the same of 4,000 sessions against 240", "<= 1.1",
         ratio(one("idle, 4000 sessions", "kb_per_session", "join"),
               one("idle, 240 sessions", "kb_per_session", "join")), at_most(1.1)),
    Goal("calls/s, 32 sessions, `join` against `ssh -R` with our proxy", ">= 1.2",
         quotient(CALLS_32, "calls_per_second", "join", "ssh"), at_least(1.2)),
    Goal("the same of `join` as a single process", "for information",
         quotient(CALLS_32, "calls_per_second", "single", "ssh")),
    Goal("the same of connector and proxy apart", "for information",
         quotient(CALLS_32, "calls_per_second", "apart", "ssh")),
    Goal("p99 of one session, `join`, ms: no stall of 40 ms", "< 40",
         one(CALLS_1, "p99", "join", 1e3), lambda value: value < 40),
    Goal("p99 of one session, `ssh -R`, ms", "for information", one(CALLS_1, "p99", "ssh", 1e3)),
    Goal("CPU per call at 10,000 known tunnels against 10", "<= 1.1",
         ratio(one(_KNOWN.format(10_000), "cpu_per_unit", "join"), one(_KNOWN.format(10), "cpu_per_unit", "join")),
         at_most(1.1)),
    Goal("CPU per call over a relay between two edge nodes against one node", "for information",
         quotient(CALLS_32, "cpu_per_unit", "relay", "join")),
    Goal("64 MB 20 times to slow readers with 4 KB socket buffers: share that arrived", "1",
         one(SLOW, "arrived", "join"), at_least(1)),
    Goal("MB the edge grew by meanwhile, one reader asleep", "<= 16",
         one(SLOW, "grown_edge", "join", 1e-6), at_most(16)),
    Goal("busiest the load was through a tunnel, share of a core", "<= 0.8", busiest("load_busy"), at_most(0.8)),
    Goal("busiest the upstream was through a tunnel, share of a core", "<= 0.8",
         busiest("upstream_busy"), at_most(0.8)),
)  # fmt: skip


def goal_table(samples: Samples) -> str:
    """Every goal with what was measured, as Markdown."""
    rows = ["| within this run | wanted | measured | |", "| --- | --- | --- | --- |"]
    for goal in GOALS:
        value = goal.value(samples)
        shown = "not measured" if value is None else f"{value:.2f}"
        verdict = "" if value is None or goal.met is None else "met" if goal.met(value) else "**missed**"
        rows.append(f"| {goal.name} | {goal.wanted} | {shown} | {verdict} |")
    return "\n".join(rows)
