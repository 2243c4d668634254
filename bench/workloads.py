"""What is asked of the candidates, and how one measurement is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from bench.chains import Chain
from bench.measure import CPUMeter, percentile, pss_bytes

MB = 1024 * 1024
JOB_TIMEOUT = 180.0


@dataclass(frozen=True)
class Workload:
    """A job for the load, and which candidates it is meant for."""

    job: dict[str, Any]
    only: tuple[str, ...] = ()
    quick: bool = False


TUNNEL = ("join", "apart", "cloudflared", "ssh", "relay")
EVERYBODY: tuple[str, ...] = ()


def calls(sessions: int, count: int) -> dict[str, Any]:
    """1 KB calls in a closed loop."""
    return {"kind": "calls", "sessions": sessions, "calls": count}


WORKLOADS = {
    "calls, 1 session": Workload(calls(1, 2000), quick=True),
    "calls, 4 sessions": Workload(calls(4, 6000)),
    "calls, 32 sessions": Workload(calls(32, 16000), quick=True),
    "calls, 128 sessions": Workload(calls(128, 16000)),
    "new session and call": Workload({"kind": "new", "calls": 400}),
    "events, 200 streams": Workload(
        {"kind": "events", "sessions": 200, "events": 50, "every": 50}, (*TUNNEL, "haproxy")
    ),
    "events, 1000 streams": Workload({"kind": "events", "sessions": 1000, "events": 20, "every": 200}, TUNNEL[:3]),
    "64 MB down": Workload({"kind": "bulk", "direction": "down", "bytes": 64 * MB, "times": 2}, quick=True),
    "64 MB up": Workload({"kind": "bulk", "direction": "up", "bytes": 64 * MB, "times": 2}),
    "idle, 240 sessions": Workload({"kind": "idle", "sessions": 240}, TUNNEL[:3]),
    "idle, 1000 sessions": Workload({"kind": "idle", "sessions": 1000}, TUNNEL[:3]),
    "idle, 4000 sessions": Workload({"kind": "idle", "sessions": 4000}, TUNNEL[:1]),
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
    load_busy: float
    memory: int
    memory_before: int
    cpu_by_role: dict[str, float] = field(default_factory=dict)


class LoadFailed(Exception):
    """The load ended without a result."""


def measure(chain: Chain, job: dict[str, Any]) -> Measurement:
    """Run a job against a chain that is up. Raises `LoadFailed`."""
    meters = {role: CPUMeter((pid,)) for role, pid in chain.counted.items()}
    pids = tuple(chain.counted.values())
    before = pss_bytes(pids)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    memory = 0
    watchdog = threading.Timer(JOB_TIMEOUT, process.kill)  # a chain that stalls fails, and the run goes on
    watchdog.start()
    try:
        _say(process, json.dumps({**job, "target": chain.target_json}))
        for line in process.stdout:
            if line.startswith("begin"):
                for meter in meters.values():
                    meter.start()
                _say(process, "go")
            elif line.startswith("idle"):
                memory = pss_bytes(pids)
                _say(process, "done")
            elif line.startswith("result "):
                cpu = {role: meter.read() for role, meter in meters.items()}
                return _to_measurement(json.loads(line[7:]), cpu, memory or pss_bytes(pids), before)
    except (BrokenPipeError, ValueError) as error:
        raise LoadFailed(f"the load broke off for {job['kind']} through {chain.name}: {error}") from error
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    raise LoadFailed(f"no result for {job['kind']} through {chain.name}")


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _to_measurement(result: dict[str, Any], cpu: dict[str, float], memory: int, before: int) -> Measurement:
    latencies = result["latencies"] or [0.0]
    return Measurement(
        wall=result["wall"],
        cpu=sum(cpu.values()),
        calls=result["calls"],
        failed=result["failed"],
        events=result["events"],
        bytes=result["bytes"],
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        load_busy=result["load_busy"],
        memory=memory,
        memory_before=before,
        cpu_by_role=cpu,
    )
