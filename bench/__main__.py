"""Measures every candidate in turns and writes `bench/results/<date>.json`, `.md` and plots.

`python -m bench [--quick] [--rounds N] [--chains a,b] [--workloads text;text] [--profile]`
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench import readme
from bench.chains import CHAINS
from bench.profile import profile_chain
from bench.run import Run
from bench.stage import stage
from qanat.net.process import is_compiled

RESULTS = Path(__file__).parent / "results"
FULL_ROUNDS, QUICK_ROUNDS = 5, 2


def main() -> int:
    """Run what was asked for; 1 when a candidate could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or what was started would outlive us
    options = _parse()
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin"  # where Debian keeps nginx, haproxy and sshd
    if options.profile:
        return profile_chain(options.chains or "single", RESULTS.parent / ".work")
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    chains = _candidates(options.chains)
    run = Run(
        stem,
        chains,
        options.rounds,
        full=len(chains) == len(CHAINS) and not (options.quick or options.workloads) and options.rounds >= FULL_ROUNDS,
        quick=options.quick,
        workloads=tuple(filter(None, options.workloads.split(";"))),
    )
    with stage(compiled=is_compiled()) as make_builder:
        run.measure(make_builder)
    print(stem.with_suffix(".md").read_text())
    print(f"written: {stem}.json and .md")
    if run.full:
        readme.update(stem.with_suffix(".json"))
        print("written: the table in README.md")
    return 1 if run.failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", help="two rounds of the main workloads, about two minutes")
    parser.add_argument("--profile", action="store_true", help="instead, flame graphs under load, by py-spy")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--chains", default="", help="comma list; default all that can run here")
    parser.add_argument("--workloads", default="", help="beginnings of names, separated by ;")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else FULL_ROUNDS)
    return options


def _candidates(wanted: str) -> list[str]:
    names = []
    for name, candidate in CHAINS.items():
        if wanted and name not in wanted.split(","):
            continue
        if candidate.missing:
            print(f"{name}: not measured, needs {', '.join(candidate.missing)}")
        else:
            names.append(name)
    return names


if __name__ == "__main__":
    sys.exit(main())
