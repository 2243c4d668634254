"""Sets up what every chain needs, certificates, the load's programs and the upstream, and clears it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.chains import Builder
from bench.ground import Ground, Processes, free_port
from bench.native import SOURCES, compile_programs


@contextmanager
def stage(compiled: bool = False) -> Iterator[Callable[[int], Builder]]:
    """What makes a builder of chains, given the number of tunnels the edge shall know.

    `compiled`: load and upstream too, so that they take less of the cores they share with a chain.
    """
    ground = Ground()
    processes = Processes(ground.directory)
    try:
        programs = compile_programs(ground.directory / "programs") if compiled else SOURCES
        port = free_port()
        upstream = processes.python("upstream", "-c", "from bench.upstream import run; run()", str(port), cwd=programs)
        processes.wait_for_log("upstream", "ready")
        yield lambda tunnels: Builder(ground, programs, port, tunnels, upstream)
    finally:
        processes.stop()
        ground.remove()
