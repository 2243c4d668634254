"""Flame graphs of a chain's processes under load, by py-spy: what `make bench PROFILE=1` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.chains import Builder
from bench.ground import Ground, Processes, free_port
from bench.workloads import calls, measure

SECONDS = 8


def profile_chain(name: str, output: Path) -> int:
    """Write `<chain>-<role>.svg` for each of our processes; the number of those that failed."""
    output.mkdir(exist_ok=True)
    ground = Ground()
    upstream = Processes(ground.directory)
    try:
        port = free_port()
        upstream.python("upstream", "-m", "bench.upstream", str(port))
        upstream.wait_for_log("upstream", "ready")
        chain = Builder(ground, port).build(name)
        try:
            failed = 0
            for role, pid in chain.counted.items():
                path = output / f"{name}-{role}.svg"
                spy = subprocess.Popen(
                    [str(Path(sys.executable).with_name("py-spy")), "record", "-p", str(pid), "-d", str(SECONDS),
                     "-r", "500", "-o", str(path)],
                    stdout=subprocess.DEVNULL,
                )  # fmt: skip
                measure(chain, calls(32, 2500 * SECONDS))
                failed += spy.wait() != 0
                print(f"written: {path}")
            return failed
        finally:
            chain.processes.stop()
    finally:
        upstream.stop()
        ground.remove()
