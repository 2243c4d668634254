"""What tunnels carry, for operators: per tunnel and interval, bytes both ways and streams. Costs a stream nothing.

Sessions count their bytes anyway; here they are summed when somebody looks. A stream is counted on the node its client
is connected to, and on no other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from qanat.ids import TunnelID


@dataclass(slots=True)
class Moved:
    """Sums that only grow, but for `streams_open`. `bytes_in` go towards the tunnel's server."""

    bytes_in: int = 0
    bytes_out: int = 0
    streams_opened: int = 0
    streams_open: int = 0


Live = Iterable[tuple[TunnelID, int, int]]
"""Streams that are open: tunnel, bytes in, bytes out."""


class Traffic:
    """The sums of one node."""

    def __init__(self) -> None:
        self._ended: dict[TunnelID, Moved] = defaultdict(Moved)
        """What streams had moved when they ended, and how many there were and are."""
        self._told: dict[TunnelID, Moved] = {}

    def opened(self, tunnel: TunnelID) -> None:
        """A stream was accepted."""
        moved = self._ended[tunnel]
        moved.streams_opened += 1
        moved.streams_open += 1

    def ended(self, tunnel: TunnelID, bytes_in: int, bytes_out: int) -> None:
        """A stream is over."""
        moved = self._ended[tunnel]
        moved.streams_open -= 1
        moved.bytes_in += bytes_in
        moved.bytes_out += bytes_out

    def take(self, live: Live) -> dict[TunnelID, Moved]:
        """What is new since the last time, of each tunnel that has any; its `streams_open` is what is open now."""
        now = {tunnel: replace(moved) for tunnel, moved in self._ended.items()}
        for tunnel, bytes_in, bytes_out in live:
            now[tunnel].bytes_in += bytes_in
            now[tunnel].bytes_out += bytes_out
        new = {tunnel: _difference(moved, self._told.get(tunnel, Moved())) for tunnel, moved in now.items()}
        changed = {tunnel: moved for tunnel, moved in new.items() if now[tunnel] != self._told.get(tunnel)}
        quiet = [tunnel for tunnel, moved in now.items() if not moved.streams_open]
        for tunnel in quiet:  # all of it is told by this: forget it, or every tunnel ever met would stay
            del now[tunnel], self._ended[tunnel]
        self._told = now
        return changed


def _difference(now: Moved, then: Moved) -> Moved:
    return Moved(
        now.bytes_in - then.bytes_in,
        now.bytes_out - then.bytes_out,
        now.streams_opened - then.streams_opened,
        now.streams_open,
    )
