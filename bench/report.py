"""Turns raw measurements into the table people read: medians over rounds, and each target as a ratio in one run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bench.measure import median

Medians = dict[tuple[str, str], dict[str, float]]
"""(workload, chain) to the median of each quantity."""

CALLS_1, CALLS_32 = "calls, 1 session", "calls, 32 sessions"


@dataclass(frozen=True)
class Goal:
    """A ratio we hold ourselves to. `value` is None when one of its sides was not measured."""

    name: str
    wanted: str
    met: Callable[[float], bool]
    value: Callable[[Medians], float | None]


def quotient(workload: str, quantity: str, ours: str, other: str) -> Callable[[Medians], float | None]:
    """A quantity of ours divided by the same of another's."""

    def value(medians: Medians) -> float | None:
        mine, theirs = medians.get((workload, ours), {}), medians.get((workload, other), {})
        return mine[quantity] / theirs[quantity] if quantity in mine and theirs.get(quantity) else None

    return value


def added(quantity: str, ours: str, other: str) -> Callable[[Medians], float | None]:
    """Latency added over no chain at all, ours against another's."""

    def value(medians: Medians) -> float | None:
        mine, theirs, direct = (medians.get((CALLS_1, name), {}).get(quantity) for name in (ours, other, "direct"))
        if mine is None or theirs is None or direct is None or theirs <= direct:
            return None
        return (mine - direct) / (theirs - direct)

    return value


def per_idle_session(medians: Medians) -> float | None:
    """KB of memory for each idle session, edge, connector and proxy together."""
    return medians.get(("idle, 1000 sessions", "join"), {}).get("kb_per_session")


def idle_growth(medians: Medians) -> float | None:
    """The same at 4,000 sessions against 240."""
    return _divide(
        medians.get(("idle, 4000 sessions", "join"), {}).get("kb_per_session"),
        medians.get(("idle, 240 sessions", "join"), {}).get("kb_per_session"),
    )


def all_events(medians: Medians) -> float | None:
    """The share of the events that arrived."""
    return _divide(medians.get(("events, 200 streams", "join"), {}).get("units"), 200.0 * 50)


def many_tunnels(medians: Medians) -> float | None:
    """CPU per call at 10,000 known tunnels against 10."""
    texts = [f"{CALLS_32}, {count} tunnels known" for count in (10_000, 10)]
    return _divide(*(medians.get((text, "join"), {}).get("cpu_per_unit") for text in texts))


def connector_alone(medians: Medians) -> float | None:
    """CPU per call of our connector against cloudflared in the same place: same edge, same proxy apart."""
    ours, theirs = medians.get((CALLS_32, "apart"), {}), medians.get((CALLS_32, "cloudflared"), {})
    return _divide(ours.get("cpu_connector"), theirs.get("cpu_connector"))


def _divide(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


GOALS = (
    Goal("calls/s, 32 sessions, join against stock cloudflared and our proxy", ">= 2", at_least(2),
         quotient(CALLS_32, "calls_per_second", "join", "cloudflared")),
    Goal("CPU per call, same pair", "<= 0.5", at_most(0.5), quotient(CALLS_32, "cpu_per_unit", "join", "cloudflared")),
    Goal("added latency, 1 session, p50, same pair", "<= 0.75", at_most(0.75), added("p50", "join", "cloudflared")),
    Goal("added latency, 1 session, p99, same pair", "<= 0.8", at_most(0.8), added("p99", "join", "cloudflared")),
    Goal("CPU per call, our connector against cloudflared alone", "<= 0.4", at_most(0.4), connector_alone),
    Goal("CPU per request, our proxy against nginx", "<= 1.6", at_most(1.6),
         quotient(CALLS_32, "cpu_per_unit", "proxy", "nginx")),
    Goal("64 MB down, MB/s, join against haproxy twice", ">= 0.6", at_least(0.6),
         quotient("64 MB down", "mb_per_second", "join", "haproxy")),
    Goal("64 MB up, CPU per MB, join against haproxy twice", "informative", lambda _: True,
         quotient("64 MB up", "cpu_per_mb", "join", "haproxy")),
    Goal("CPU per event, 200 streams, join against cloudflared", "<= 0.7", at_most(0.7),
         quotient("events, 200 streams", "cpu_per_unit", "join", "cloudflared")),
    Goal("events that arrived, 200 streams, join", ">= 1", at_least(1), all_events),
    Goal("memory per idle session, KB", "<= 55", at_most(55), per_idle_session),
    Goal("memory per idle session, 4,000 against 240", "<= 1.1", at_most(1.1), idle_growth),
    Goal("calls/s, 32 sessions, apart against ssh -R with the same proxy", ">= 1.2", at_least(1.2),
         quotient(CALLS_32, "calls_per_second", "apart", "ssh")),
    Goal("CPU per call at 10,000 known tunnels against 10", "<= 1.1", at_most(1.1), many_tunnels),
)  # fmt: skip


def write_report(document: dict[str, Any], path: Path) -> None:
    """Write the Markdown and its plots next to it."""
    medians = to_medians(document["results"])
    goals = _goal_table(medians)
    plots = [_plot(path, medians, text) for text in (CALLS_32, "64 MB down")]
    parts = ["# Measurements", "", *_machine_lines(document), "", goals, "", *plots, "", _raw_table(medians), ""]
    if document["failures"]:
        parts += ["## Not measured", "", *[f"- {failure.splitlines()[0]}" for failure in document["failures"]], ""]
    path.write_text("\n".join(parts))


def to_medians(results: list[dict[str, Any]]) -> Medians:
    """The median over rounds of every quantity."""
    gathered: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for name, value in _quantities(result).items():
            gathered[result["workload"], result["chain"]][name].append(value)
    return {key: {name: median(values) for name, values in found.items()} for key, found in gathered.items()}


def _quantities(result: dict[str, Any]) -> dict[str, float]:
    units = result["events"] if result["workload"].startswith("events") else result["calls"]
    found = {
        "calls_per_second": result["calls"] / result["wall"],
        "cpu_per_unit": result["cpu"] / max(units, 1),
        "p50": result["p50"],
        "p99": result["p99"],
        "load_busy": result["load_busy"],
        "memory": float(result["memory"]),
        "units": float(units),
        **{f"cpu_{name}": value / max(units, 1) for name, value in result["cpu_by_role"].items()},
    }
    if result["workload"].startswith("64 MB"):
        megabytes = 64.0 * result["calls"]
        found |= {"mb_per_second": megabytes / result["wall"], "cpu_per_mb": result["cpu"] / megabytes}
    if result["workload"].startswith(("idle", "events")):
        sessions = int(result["workload"].split()[1])
        found["kb_per_session"] = (result["memory"] - result["memory_before"]) / sessions / 1024
    return found


def _machine_lines(document: dict[str, Any]) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in document["machine"].items()]
    return [*lines, f"- rounds: {document['rounds']}; medians are shown; CPU is summed over a chain's processes"]


def _goal_table(medians: Medians) -> str:
    rows = ["| ratio, within this run | wanted | measured | |", "| --- | --- | --- | --- |"]
    for goal in GOALS:
        value = goal.value(medians)
        shown = "not measured" if value is None else f"{value:.2f}"
        verdict = "" if value is None else "met" if goal.met(value) else "**missed**"
        rows.append(f"| {goal.name} | {goal.wanted} | {shown} | {verdict} |")
    return "\n".join(rows)


def _raw_table(medians: Medians) -> str:
    rows = [
        "| workload | chain | calls/s | CPU us per call or event | p50 ms | p99 ms | MB/s | memory MB "
        "| KB per session | load busy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (workload, chain), found in medians.items():
        rows.append(
            f"| {workload} | {chain} | {found['calls_per_second']:.0f} | {found['cpu_per_unit'] * 1e6:.1f} "
            f"| {found['p50'] * 1e3:.2f} | {found['p99'] * 1e3:.2f} | {found.get('mb_per_second', 0):.0f} "
            f"| {found['memory'] / 1e6:.0f} | {found.get('kb_per_session', 0):.1f} | {found['load_busy']:.0%} |"
        )
    return "\n".join(rows)


def _plot(path: Path, medians: Medians, workload: str) -> str:
    """A bar for each chain, as SVG."""
    quantity, unit = ("mb_per_second", "MB/s") if "MB" in workload else ("calls_per_second", "calls/s")
    bars = [(chain, found[quantity]) for (text, chain), found in medians.items() if text == workload]
    if not bars:
        return ""
    top = max(value for _, value in bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{28 * len(bars) + 34}" '
        'font-family="sans-serif" font-size="13">',
        f'<text x="8" y="18" font-weight="bold">{escape(workload)}, {unit}</text>',
    ]
    for index, (chain, value) in enumerate(sorted(bars, key=lambda bar: -bar[1])):
        y, width = 30 + 28 * index, 400 * value / top
        colour = "#0b7285" if chain in ("join", "apart", "proxy") else "#adb5bd"
        lines.append(f'<text x="8" y="{y + 15}">{chain}</text>')
        lines.append(f'<rect x="110" y="{y}" width="{width:.0f}" height="20" fill="{colour}"/>')
        lines.append(f'<text x="{118 + width:.0f}" y="{y + 15}">{value:,.0f}</text>')
    lines.append("</svg>")
    name = f"{path.stem}-{'bulk' if 'MB' in workload else 'calls'}.svg"
    path.with_name(name).write_text("\n".join(lines))
    return f"![{workload}]({name})"
