"""Measures every candidate in turns, round by round, and writes `bench/results/<date>.json` and `.md`.

`python -m bench [--quick] [--rounds N] [--chains a,b] [--workloads text;text] [--profile]`
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.chains import CHAINS, Builder, Chain
from bench.ground import ChainFailed, Ground, Processes, free_port
from bench.profile import profile_chain
from bench.report import write_report
from bench.workloads import WORKLOADS, LoadFailed, Workload, measure

RESULTS = Path(__file__).parent / "results"
TUNNEL_COUNTS = (10, 1_000, 10_000)


def main() -> int:
    """Run what was asked for; 1 when a candidate could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or what was started would outlive us
    options = _parse()
    if options.profile:
        return profile_chain(options.chains or "join", RESULTS.parent / ".work")
    ground = Ground()
    processes = Processes(ground.directory)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    try:
        port = free_port()
        processes.python("upstream", "-m", "bench.upstream", str(port))
        processes.wait_for_log("upstream", "ready")
        names = _candidates(options.chains)
        for number in range(options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                _measure_chain(Builder(ground, port), name, number, options, results, failures)
            if not options.quick and not options.workloads and "join" in names:
                _measure_tunnel_counts(ground, port, number, results, failures)
            _keep(stem, number + 1, results, failures)
    finally:
        processes.stop()
        ground.remove()
    print(stem.with_suffix(".md").read_text())
    print(f"written: {stem}.json and .md")
    return 1 if failures else 0


def _keep(stem: Path, rounds: int, results: list[dict[str, Any]], failures: list[str]) -> None:
    """Write what is there after so many rounds: a run that is cut short still leaves its table."""
    document = {"machine": _machine(), "rounds": rounds, "failures": failures, "results": results}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1))
    write_report(document, stem.with_suffix(".md"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", help="two rounds of the main workloads, about two minutes")
    parser.add_argument("--profile", action="store_true", help="instead, flame graphs of join under load, by py-spy")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--chains", default="", help="comma list; default all that can run here")
    parser.add_argument("--workloads", default="", help="beginnings of names, separated by ;")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
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


def _wanted(options: argparse.Namespace, text: str, workload: Workload, chain: str) -> bool:
    if workload.only and chain not in workload.only:
        return False
    if options.workloads:
        return any(text.startswith(start) for start in options.workloads.split(";"))
    return workload.quick or not options.quick


def _measure_chain(
    builder: Builder,
    name: str,
    number: int,
    options: argparse.Namespace,
    results: list[dict[str, Any]],
    failures: list[str],
) -> None:
    wanted = {text: load for text, load in WORKLOADS.items() if _wanted(options, text, load, name)}
    fresh = {text for text in wanted if text.startswith("idle")}
    groups = [[text for text in wanted if text not in fresh], *[[text] for text in fresh]]
    for group in filter(None, groups):  # memory is compared with that of a chain that has done nothing yet
        try:
            chain = builder.build(name)
        except Exception as failed:  # whatever keeps one chain from starting must not end the run
            _note(failures, f"{name}: {failed!r}" if not isinstance(failed, ChainFailed) else f"{name}: {failed}")
            return
        try:
            for text in group:
                _measure_one(chain, text, wanted[text].job, number, results, failures)
        finally:
            chain.processes.stop()


def _measure_one(
    chain: Chain, text: str, job: dict[str, Any], number: int, results: list[dict[str, Any]], failures: list[str]
) -> None:
    begun = time.monotonic()
    try:
        found = measure(chain, job)
    except LoadFailed as failed:
        _note(failures, f"{text}: {failed}")
        return
    except Exception as failed:  # nor may what breaks one measurement end the others
        _note(failures, f"{text} through {chain.name}: {failed!r}")
        return
    if found.failed:
        _note(failures, f"{text}: {found.failed} calls failed through {chain.name}, round {number + 1}")
    results.append({"chain": chain.name, "workload": text, "round": number, **asdict(found)})
    print(
        f"round {number + 1}  {chain.name:<12}{text:<24}{found.calls / found.wall:9.0f} calls/s"
        f"{found.cpu / max(found.calls, found.events, 1) * 1e6:9.1f} us CPU{time.monotonic() - begun:7.1f} s",
        flush=True,
    )


def _note(failures: list[str], text: str) -> None:
    failures.append(text)
    print(text, file=sys.stderr, flush=True)


def _measure_tunnel_counts(
    ground: Ground, port: int, number: int, results: list[dict[str, Any]], failures: list[str]
) -> None:
    for count in TUNNEL_COUNTS:
        try:
            chain = Builder(ground, port, tunnels=count).build("join")
        except ChainFailed as failed:
            _note(failures, f"join, {count} tunnels known: {failed}")
            return
        try:
            text = f"calls, 32 sessions, {count} tunnels known"
            _measure_one(chain, text, WORKLOADS["calls, 32 sessions"].job, number, results, failures)
        finally:
            chain.processes.stop()


def _machine() -> dict[str, str]:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": cores,
        "kernel": platform.release(),
        "python": platform.python_version(),
        **_versions(),
    }


def _versions() -> dict[str, str]:
    asked = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "ssh": ["ssh", "-V"]}
    found = {}
    for name, command in asked.items():
        if not CHAINS[name].missing:
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            found[name] = (answer.stdout + answer.stderr).splitlines()[0]
    if not CHAINS["cloudflared"].missing:
        import os

        answer = subprocess.run(
            [os.environ["QANAT_CLOUDFLARED"], "--version"], capture_output=True, text=True, check=False
        )
        found["cloudflared"] = answer.stdout.strip()
    return found


if __name__ == "__main__":
    sys.exit(main())
