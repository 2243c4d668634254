"""Bars, one for each chain, as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.goals import CALLS_32, DOWN, EVENTS_200, Medians

OURS = ("join", "single", "apart", "relay", "proxy")


@dataclass(frozen=True)
class Plot:
    """A quantity of one workload over the chains."""

    name: str
    workload: str
    quantity: str
    unit: str
    scale: float = 1.0


PLOTS = (
    Plot("calls", CALLS_32, "calls_per_second", "calls/s"),
    Plot("cpu", CALLS_32, "cpu_per_unit", "µs CPU per call", 1e6),
    Plot("bulk", DOWN, "mb_per_second", "MB/s"),
    Plot("events", EVENTS_200, "cpu_per_unit", "µs CPU per event", 1e6),
    Plot("idle", "idle, 1000 sessions", "kb_per_session", "KB per session"),
)


def write_plots(path: Path, medians: Medians) -> list[str]:
    """Write the plots of what was measured next to the report at `path`; the Markdown that shows them."""
    lines = []
    for plot in PLOTS:
        bars = [
            (chain, found[plot.quantity] * plot.scale)
            for (workload, chain), found in medians.items()
            if workload == plot.workload and found[plot.quantity] > 0
        ]
        if bars:
            name = f"{path.stem}-{plot.name}.svg"
            path.with_name(name).write_text(_draw(f"{plot.workload}, {plot.unit}", bars))
            lines.append(f"![{plot.workload}, {plot.unit}]({name})")
    return lines


def _draw(title: str, bars: list[tuple[str, float]]) -> str:
    top = max(value for _, value in bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{28 * len(bars) + 34}" '
        'font-family="sans-serif" font-size="13">',
        f'<text x="8" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (chain, value) in enumerate(sorted(bars, key=lambda bar: -bar[1])):
        y, width = 30 + 28 * index, 400 * value / top
        colour = "#0b7285" if chain in OURS else "#adb5bd"
        lines.append(f'<text x="8" y="{y + 15}">{chain}</text>')
        lines.append(f'<rect x="110" y="{y}" width="{width:.0f}" height="20" fill="{colour}"/>')
        lines.append(f'<text x="{118 + width:.0f}" y="{y + 15}">{value:,.0f}</text>')
    return "\n".join([*lines, "</svg>", ""])
