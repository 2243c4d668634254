"""What a killed node, a rolling restart and a control plane that was away cost.

`python -m bench.failover` writes `bench/results/<date>-failover.md`. Three edge nodes with a Redis, a connector with
four connections, and twenty callers that make 200 calls a second in all; a call is 64 bytes to the far end and back.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from tests.edge.test_fail_static import rotate as rotated
from tests.edge.test_fail_static import until_refused
from tests.support.edge import DictDirectory, EchoProxy, OperatorFiles, connect, make_tunnel, running_edge
from tests.support.edge_field import field_of_three

RESULTS = Path(__file__).parent / "results"


async def kill(folder: Path, files: OperatorFiles) -> list[str]:
    """One of three nodes gets SIGKILL."""
    async with field_of_three(folder, files) as scene:
        killed = await scene.kill_one(before=600, after=1_200)
        load = scene.load
        known = max((moment - killed for moment, _ in load.lost), default=0.0)
        reasons = sorted({reason for _, reason in load.lost})
        next_answer = min(moment for moment in load.answered if moment > killed) - killed
        return [
            f"calls answered: {load.done}; in flight and lost: {len(load.lost)} ({', '.join(reasons)})",
            f"the last loss was known after {known * 1000:.0f} ms",
            f"the next answer came after {next_answer * 1000:.0f} ms",
            f"longest gap without any answer: {gap(load.answered, killed) * 1000:.0f} ms; slowest call: "
            f"{load.slowest * 1000:.0f} ms",
        ]


async def restart(folder: Path, files: OperatorFiles) -> list[str]:
    """All three nodes get SIGTERM in turn."""
    async with field_of_three(folder, files) as scene:
        await scene.restart_all(between=600)
        load = scene.load
        return [
            f"calls answered: {load.done}; lost: {len(load.lost)}",
            f"dials that had to try another node: {load.redials}; slowest call: {load.slowest * 1000:.0f} ms",
        ]


async def rotate(folder: Path, files: OperatorFiles) -> list[str]:
    """A token is rotated while the control plane cannot be reached, which then comes back."""
    directory = DictDirectory()
    tunnel = directory.add(make_tunnel())
    lines = []
    async with running_edge(files, directory) as edge:
        for seconds in (1, 10):
            await connect(edge.connector_address, files, tunnel.token, EchoProxy(), index=1)
            await directory.stop()
            await asyncio.sleep(seconds)
            tunnel, old = rotated(tunnel)
            await directory.change(tunnel.record)
            directory.up, back = True, asyncio.get_running_loop().time()
            await until_refused(edge, files, old)
            passed = asyncio.get_running_loop().time() - back
            lines.append(f"away for {seconds} s: the old token was refused {passed * 1000:.0f} ms after the return")
    return lines


def gap(moments: Sequence[float], after: float) -> float:
    """The longest time between two neighbours after a moment."""
    later = [after, *sorted(moment for moment in moments if moment > after)]
    return max((right - left for left, right in itertools.pairwise(later)), default=0.0)


async def measure(root: Path) -> str:
    """Both, as Markdown."""
    files = OperatorFiles(root / "operator")
    lines = [f"# Failover, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"]
    for title, work in (
        ("One of three nodes killed", kill),
        ("Three nodes restarted in turn", restart),
        ("A token rotated while the control plane was away", rotate),
    ):
        folder = root / work.__name__
        folder.mkdir()
        lines += ["", f"## {title}", "", *(f"- {line}" for line in await work(folder, files))]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print and keep the numbers."""
    with tempfile.TemporaryDirectory() as root:
        text = uvloop.run(measure(Path(root)))
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}-failover.md").write_text(text)


if __name__ == "__main__":
    main()
