"""Puts the table of a full run into README.md, between its markers: `python -m bench.readme [results.json]`.

Without a file the newest full run in `bench/results/` is taken. A run is full when nothing was left out and it has at
least five rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.goals import goal_table, to_samples

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- measured: written by `make bench` -->", "<!-- /measured -->"


def newest_full() -> Path | None:
    """The results of the last full run."""
    full = (path for path in RESULTS.glob("*.json") if json.loads(path.read_text()).get("full"))
    return max(full, default=None, key=lambda path: path.name)


def render(document: dict[str, Any] | None, source: str = "") -> str:
    """What stands between the markers."""
    if document is None:
        return "No full run has been kept yet."
    machine, failures = document["machine"], len(document["failures"])
    versions = [str(value).split(" - ")[0].strip() for key, value in machine.items() if key not in _NOT_VERSIONS]
    lines = [
        f"{machine['date'][:10]}, {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}; {', '.join(versions)}.",
        f"Medians of {document['rounds']} rounds, every candidate in turns, CPU and memory summed over a chain's",
        f"processes: [how they are taken](bench/README.md), [every number behind them](bench/results/{source}.md).",
        *([f"{failures} measurements failed, see there."] if failures else []),
    ]
    return "\n".join([*lines, "", goal_table(to_samples(document["results"]))])


_NOT_VERSIONS = ("date", "cpu", "cores", "kernel", "python")


def rewrite(readme: str, text: str) -> str:
    """The README with `text` between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("README.md has lost its markers")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def update(results: Path | None) -> None:
    """Rewrite README.md from a file of results."""
    path = ROOT / "README.md"
    document = json.loads(results.read_text()) if results else None
    path.write_text(rewrite(path.read_text(), render(document, results.stem if results else "")))


def main() -> int:
    """Rewrite, and say from what."""
    parser = argparse.ArgumentParser(prog="bench.readme")
    parser.add_argument("results", type=Path, nargs="?", default=newest_full())
    results = parser.parse_args().results
    update(results)
    print(f"README.md: {results or 'no full run yet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
