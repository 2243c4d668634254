"""Sets up what every chain needs, certificates and the upstream, and clears it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.chains import Builder
from bench.ground import Ground, Processes, free_port


@contextmanager
def stage() -> Iterator[Callable[[int], Builder]]:
    """What makes a builder of chains, given the number of tunnels the edge shall know."""
    ground = Ground()
    processes = Processes(ground.directory)
    try:
        port = free_port()
        upstream = processes.python("upstream", "-m", "bench.upstream", str(port))
        processes.wait_for_log("upstream", "ready")
        yield lambda tunnels: Builder(ground, port, tunnels, upstream)
    finally:
        processes.stop()
        ground.remove()
