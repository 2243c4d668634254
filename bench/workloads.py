"""What is asked of the candidates, and how one measurement is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.chains import Chain
from bench.measure import CPUMeter, percentile, pss_bytes

MB = 1024 * 1024
JOB_TIMEOUT = 180.0
UPSTREAM = "upstream"


@dataclass(frozen=True)
class Workload:
    """A job for the load, and which candidates it is meant for."""

    job: dict[str, Any]
    only: tuple[str, ...] = ()
    quick: bool = False
    alone: bool = False
    """On a chain of its own: memory is compared with that of one that has done nothing yet."""
    connections: int = 4
    """How many the connector keeps, where the chain is not shared."""
    turns: int = 1
    """How often each candidate is asked in a round of a full run."""
    once: bool = False
    """In the first round only: it holds or it does not."""


TUNNEL = ("join", "apart", "cloudflared", "single", "ssh", "relay")


def calls(sessions: int, count: int) -> dict[str, Any]:
    """1 KB calls in a closed loop."""
    return {"kind": "calls", "sessions": sessions, "calls": count}


WORKLOADS = {
    "calls, 1 session": Workload(calls(1, 2000), quick=True, turns=5),
    "calls, 4 sessions": Workload(calls(4, 6000)),
    "calls, 32 sessions": Workload(calls(32, 6000), quick=True, turns=5),
    "calls, 128 sessions": Workload(calls(128, 12000)),
    "new session and call": Workload({"kind": "new", "calls": 320}),
    "events, 200 streams": Workload(
        {"kind": "events", "sessions": 200, "events": 50, "every": 50}, (*TUNNEL, "haproxy")
    ),
    "events, 1000 streams": Workload(
        {"kind": "events", "sessions": 1000, "events": 20, "every": 200}, TUNNEL[:3], alone=True, connections=8
    ),
    "64 MB down": Workload({"kind": "bulk", "direction": "down", "bytes": 64 * MB, "times": 2}, quick=True),
    "64 MB up": Workload({"kind": "bulk", "direction": "up", "bytes": 64 * MB, "times": 2}),
    "64 MB down, 20 times, slow readers": Workload(
        {
            "kind": "slow",
            "bytes": 64 * MB,
            "times": 20,
            "at_once": 4,
            "rest_after": 2 * MB,
            "rest_for": 0.01,
            "receive_buffer": 4096,
        },
        ("join",),
        alone=True,
        once=True,
    ),
    "idle, 240 sessions": Workload({"kind": "idle", "sessions": 240}, TUNNEL[:1], alone=True, connections=8),
    "idle, 1000 sessions": Workload({"kind": "idle", "sessions": 1000}, TUNNEL[:3], alone=True, connections=8),
    "idle, 4000 sessions": Workload({"kind": "idle", "sessions": 4000}, TUNNEL[:1], alone=True, connections=8),
}


@dataclass(slots=True)
class Measurement:
    """One workload on one chain, once. Times in seconds, memory in bytes."""

    wall: float
    cpu: float
    calls: int
    failed: int
    events: int
    bytes: int
    p50: float
    p99: float
    expected: int
    """Calls, or events where those are counted, that a chain which loses nothing delivers."""
    load_busy: float
    """Share of a core that the load took; the upstream's is beside it."""
    upstream_busy: float
    memory: int
    memory_before: int
    cpu_by_role: dict[str, float] = field(default_factory=dict)
    memory_by_role: dict[str, int] = field(default_factory=dict)
    """Bytes more than before the load."""


class LoadFailed(Exception):
    """The load ended without a result."""


def measure(chain: Chain, job: dict[str, Any]) -> Measurement:
    """Run a job against a chain that is up. Raises `LoadFailed`."""
    command = [sys.executable, "-c", "from bench.load import run; run()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=chain.programs) as process:
        watchdog = threading.Timer(JOB_TIMEOUT, process.kill)  # a chain that stalls fails, and the run goes on
        watchdog.start()
        try:
            return _attend(chain, job, process)
        except (BrokenPipeError, ValueError) as error:
            raise LoadFailed(f"the load broke off for {job['kind']} through {chain.name}: {error}") from error
        finally:
            watchdog.cancel()
            process.kill()


def _attend(chain: Chain, job: dict[str, Any], process: subprocess.Popen[str]) -> Measurement:
    """Read the meters when the load says so."""
    assert process.stdout is not None
    meters = {role: CPUMeter((pid,)) for role, pid in {**chain.counted, UPSTREAM: chain.upstream}.items()}
    before = _weigh(chain)
    weights = []
    target = replace(chain.target, receive_buffer=job.get("receive_buffer", 0))
    _say(process, json.dumps({**job, "target": asdict(target)}))
    for line in process.stdout:
        if line.startswith("begin"):
            for meter in meters.values():
                meter.start()
            _say(process, "go")
        elif line.startswith("weigh"):
            weights.append(_weigh(chain))
            _say(process, "done")
        elif line.startswith("result "):
            cpu = {role: meter.read() for role, meter in meters.items()}
            return _to_measurement(json.loads(line[7:]), job, cpu, before, weights or [_weigh(chain)])
    raise LoadFailed(f"no result for {job['kind']} through {chain.name}")


def _weigh(chain: Chain) -> dict[str, int]:
    return {role: pss_bytes((pid,)) for role, pid in chain.counted.items()}


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _to_measurement(
    result: dict[str, Any],
    job: dict[str, Any],
    cpu: dict[str, float],
    before: dict[str, int],
    weights: list[dict[str, int]],
) -> Measurement:
    latencies = result["latencies"] or [0.0]
    upstream = cpu.pop(UPSTREAM)
    heaviest = {role: max(weight[role] for weight in weights) for role in before}
    return Measurement(
        wall=result["wall"],
        cpu=sum(cpu.values()),
        calls=result["calls"],
        failed=result["failed"],
        events=result["events"],
        bytes=result["bytes"],
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        expected=expected_units(job),
        load_busy=result["load_busy"],
        upstream_busy=upstream / result["wall"],
        memory=sum(heaviest.values()),
        memory_before=sum(before.values()),
        cpu_by_role=cpu,
        memory_by_role={role: heaviest[role] - before[role] for role in before},
    )


def expected_units(job: dict[str, Any]) -> int:
    """Calls, or events where those are counted, that a chain which loses nothing delivers."""
    match job["kind"]:
        case "events":
            return int(job["sessions"] * job["events"])
        case "slow":
            return int(job["times"] + 1)
        case "bulk":
            return int(job["times"])
        case "idle":
            return int(job["sessions"])
        case _:
            return int(job["calls"])
