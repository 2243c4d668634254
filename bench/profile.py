"""Flame graphs of a chain's processes under load, by py-spy: what `make bench PROFILE=1` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.chains import Chain
from bench.stage import stage
from bench.workloads import calls, measure

SECONDS = 8
RATE = 250
"""Samples a second."""
CALLS = 4000 * SECONDS
"""More than are answered while the samples are taken."""


def profile_chain(name: str, output: Path) -> int:
    """Write `<chain>-<role>.svg` for each of our processes; the number of those that failed."""
    output.mkdir(exist_ok=True)
    with stage() as make_builder:
        chain = make_builder(10).build(name)
        try:
            spies = {role: _spy(pid, output / f"{name}-{role}.svg") for role, pid in _python(chain).items()}
            measure(chain, calls(32, CALLS))
            return sum(_finish(spy, output / f"{name}-{role}.svg") for role, spy in spies.items())
        finally:
            chain.processes.stop()


def _python(chain: Chain) -> dict[str, int]:
    """The processes that py-spy can look into."""
    own = Path(sys.executable).resolve()
    return {role: pid for role, pid in chain.counted.items() if Path(f"/proc/{pid}/exe").resolve() == own}


def _spy(pid: int, path: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "-p", str(pid)]
    options = ["--duration", str(SECONDS), "--rate", str(RATE), "--output", str(path)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(spy: subprocess.Popen[bytes], path: Path) -> bool:
    """Wait for it; whether it failed."""
    _, error = spy.communicate(timeout=SECONDS + 60)
    print(f"written: {path}" if spy.returncode == 0 else f"{path.name}: {error.decode(errors='replace')}")
    return spy.returncode != 0
