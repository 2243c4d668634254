"""A run: every candidate in turns, round by round, so that whatever the machine does meanwhile happens to all alike."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.chains import Builder, Chain
from bench.ground import ChainFailed
from bench.machine import describe_machine
from bench.report import write_report
from bench.workloads import WORKLOADS, LoadFailed, Workload, measure

TUNNEL_COUNTS = (10, 1_000, 10_000)
CALLS = WORKLOADS["calls, 32 sessions"]


@dataclass
class Run:
    """What is to be measured, and what has been."""

    stem: Path
    """The results' path without its suffix."""
    chains: list[str]
    rounds: int
    full: bool
    quick: bool = False
    workloads: tuple[str, ...] = ()
    """Beginnings of names; empty for all."""
    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def measure(self, make_builder: Callable[[int], Builder]) -> None:
        """Take all rounds. `make_builder` is given the number of tunnels the edge shall know."""
        begun = time.monotonic()
        for number in range(self.rounds):
            turn = number % len(self.chains)
            names = self.chains[turn:] + self.chains[:turn]
            self._measure_together(make_builder(TUNNEL_COUNTS[0]), names, number)
            for name in names:
                self._measure_alone(make_builder, name, number)
            if "join" in self.chains and not self.quick and not self.workloads:
                self._measure_tunnel_counts(make_builder, number)
            self._keep(number + 1, time.monotonic() - begun)

    def _keep(self, rounds: int, seconds: float) -> None:
        """Write what is there after so many rounds: a run that is cut short still leaves its table."""
        document = {
            "machine": describe_machine(),
            "full": self.full and rounds == self.rounds,
            "rounds": rounds,
            "seconds": round(seconds),
            "failures": self.failures,
            "results": self.results,
        }
        self.stem.with_suffix(".json").write_text(_encode(document))
        write_report(document, self.stem.with_suffix(".md"))

    def _wanted(self, text: str, workload: Workload, chain: str, number: int) -> bool:
        if (workload.only and chain not in workload.only) or (workload.once and number):
            return False
        return self._wanted_at_all(text, workload)

    def _wanted_at_all(self, text: str, workload: Workload) -> bool:
        if self.workloads:
            return text.startswith(self.workloads)
        return workload.quick or not self.quick

    def _measure_together(self, builder: Builder, names: list[str], number: int) -> None:
        """Workloads that need no fresh chain: all stand at once, and are measured within seconds of each other."""
        wanted = [text for text, load in WORKLOADS.items() if not load.alone and self._wanted_at_all(text, load)]
        with ExitStack() as stack:
            chains = [chain for name in names if wanted and (chain := self._build(stack, builder, name))]
            for text in wanted:
                for _ in range(1 if self.quick else WORKLOADS[text].turns):
                    for chain in chains:
                        if self._wanted(text, WORKLOADS[text], chain.name, number):
                            self._measure_one(chain, text, WORKLOADS[text].job, number)

    def _measure_alone(self, make_builder: Callable[[int], Builder], name: str, number: int) -> None:
        """Workloads that want a chain which has done nothing yet."""
        for text, load in WORKLOADS.items():
            if not load.alone or not self._wanted(text, load, name, number):
                continue
            builder = make_builder(TUNNEL_COUNTS[0])
            builder.connections = load.connections
            with ExitStack() as stack:
                if chain := self._build(stack, builder, name):
                    self._measure_one(chain, text, load.job, number)

    def _measure_tunnel_counts(self, make_builder: Callable[[int], Builder], number: int) -> None:
        with ExitStack() as stack:
            chains = [
                (count, self._build(stack, make_builder(count), "join", f"join-{count}")) for count in TUNNEL_COUNTS
            ]
            for _ in range(CALLS.turns):
                for count, chain in chains:
                    if chain is not None:
                        self._measure_one(chain, f"calls, 32 sessions, {count} tunnels known", CALLS.job, number)

    def _build(self, stack: ExitStack, builder: Builder, name: str, label: str = "") -> Chain | None:
        """A chain that stands until the stack is left; None, and a note, if it does not come up."""
        try:
            chain = builder.build(name, label)
        except Exception as failed:  # whatever keeps one chain from starting must not end the run
            self._note(f"{label or name}: {failed if isinstance(failed, ChainFailed) else repr(failed)}")
            return None
        stack.callback(chain.processes.stop)
        return chain

    def _measure_one(self, chain: Chain, text: str, job: dict[str, Any], number: int) -> None:
        begun = time.monotonic()
        try:
            found = measure(chain, job)
        except LoadFailed as failed:
            self._note(f"{text}: {failed}")
            return
        except Exception as failed:  # nor may what breaks one measurement end the others
            self._note(f"{text} through {chain.name}: {failed!r}")
            return
        if found.failed:
            self._note(f"{text}: {found.failed} calls failed through {chain.name}, round {number + 1}")
        self.results.append({"chain": chain.name, "workload": text, "round": number, **asdict(found)})
        print(
            f"round {number + 1}  {chain.name:<12}{text:<38}{found.calls / found.wall:9.0f} calls/s"
            f"{found.cpu / max(found.calls, found.events, 1) * 1e6:9.1f} us CPU{time.monotonic() - begun:7.1f} s",
            flush=True,
        )

    def _note(self, text: str) -> None:
        self.failures.append(text)
        print(text, file=sys.stderr, flush=True)


def _encode(document: dict[str, Any]) -> str:
    """JSON with a line for each measurement."""
    lines = ",\n".join("  " + json.dumps(result) for result in document["results"])
    return json.dumps({**document, "results": []}, indent=1)[:-4] + f"[\n{lines}\n ]\n}}\n"
