"""What a chain costs: CPU time and memory of its processes, as the kernel counted them.

CPU comes from `/proc/PID/task/*/schedstat` (nanoseconds on a core, of the threads that live), memory is PSS
from `smaps_rollup`, so shared pages are divided among those who share them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class CPUMeter:
    """CPU seconds of a group of processes and all their children since `start`."""

    pids: tuple[int, ...]
    _base: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        """Count from here."""
        self._base = {pid: cpu_seconds(pid) for pid in family(self.pids)}

    def read(self) -> float:
        """CPU seconds since `start`; a process born meanwhile counts whole."""
        return sum(cpu_seconds(pid) - self._base.get(pid, 0.0) for pid in family(self.pids))


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process; 0 when it is gone."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return total / 1e9


def pss_bytes(pids: tuple[int, ...]) -> int:
    """Proportional set size of a group of processes and their children."""
    total = 0
    for pid in family(pids):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


def family(pids: tuple[int, ...]) -> set[int]:
    """The processes and all that descend from them."""
    found, waiting = set(), list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting.extend(map(int, children.read_text().split()))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def median(values: list[float]) -> float:
    """The middle value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
