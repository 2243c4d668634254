"""Turns raw measurements into what people read: each goal, the plots, and the medians behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.goals import Medians, goal_table, to_medians, to_samples
from bench.plots import write_plots

LOAD = [
    "`load` and `upstream` are the shares of a core that the load generator and the upstream took; their CPU is not",
    "counted. Where both are well below 100 %, neither is the bottleneck; through no chain at all (`direct`) the load",
    "is, and that is the most it can drive. All share the cores, so calls/s is also what is left to a chain.",
]


def write_report(document: dict[str, Any], path: Path) -> None:
    """Write the Markdown and its plots next to it."""
    samples = to_samples(document["results"])
    medians = to_medians(samples)
    parts = ["# Measurements", "", *_machine_lines(document), "", goal_table(samples), ""]
    parts += [*write_plots(path, medians), "", *LOAD, "", _median_table(medians), ""]
    if document["failures"]:
        parts += ["## Not measured", "", *[f"- {failure.splitlines()[0]}" for failure in document["failures"]], ""]
    path.write_text("\n".join(parts))


def _machine_lines(document: dict[str, Any]) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in document["machine"].items()]
    return [*lines, f"- rounds: {document['rounds']}; medians are shown; CPU is summed over a chain's processes"]


def _median_table(medians: Medians) -> str:
    rows = [
        "| workload | chain | calls/s | CPU µs per call or event | by process | p50 ms | p99 ms | MB/s | arrived "
        "| memory MB | KB per session | load | upstream |",
        "| --- |" + " --- |" * 12,
    ]
    for (workload, chain), found in medians.items():
        roles = ", ".join(
            f"{name[4:]} {value * 1e6:.0f}"
            for name, value in found.items()
            if name.startswith("cpu_") and name not in ("cpu_per_unit", "cpu_per_mb")
        )
        rows.append(
            f"| {workload} | {chain} | {found['calls_per_second']:.0f} | {found['cpu_per_unit'] * 1e6:.1f} | {roles} "
            f"| {found['p50'] * 1e3:.2f} | {found['p99'] * 1e3:.2f} | {_or_blank(found, 'mb_per_second', 0)} "
            f"| {found['arrived']:.1%} | {found['memory'] / 1e6:.0f} | {_or_blank(found, 'kb_per_session', 1)} "
            f"| {found['load_busy']:.0%} | {found['upstream_busy']:.0%} |"
        )
    return "\n".join(rows)


def _or_blank(found: dict[str, float], name: str, digits: int) -> str:
    return f"{found[name]:.{digits}f}" if name in found else ""
