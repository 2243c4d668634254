"""The ladder of ways to reach an edge: HTTP/2 on 7844, QUIC on 7844, WebSocket on 443.

Two failed dials in a row lead to the next rung, and from the last one back to the first. A rung that carries a live
connection is not left, and a rung that has worked before gets more patience: an edge that restarts fails dials too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DIALS_PER_RUNG = 2
DIALS_PER_PROVEN_RUNG = 6
RETURN_AFTER = 600.0
"""Seconds on a lower rung after which a connection that has to dial anyway starts again from the top."""

RUNGS = {
    "auto": ("http2", "quic", "wss"),
    "http2": ("http2",),
    "quic": ("quic",),
    "wss": ("wss",),
}
"""What `--protocol` stands for."""


@dataclass(slots=True)
class Ladder:
    """Which rung to try next, and why the others failed."""

    rungs: tuple[str, ...]
    position: int = 0
    failures: int = 0
    """Failed dials in a row on the present rung."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Rung to its last failure, of those not in use."""
    proven: set[str] = field(default_factory=set)
    _arrived: float = 0.0

    @property
    def rung(self) -> str:
        """The rung to dial on."""
        return self.rungs[self.position]

    @property
    def is_untried(self) -> bool:
        """Whether nothing is known against the present rung."""
        return self.rung not in self.reasons

    def dial_failed(self, rung: str, reason: str, live: int, now: float) -> bool:
        """Take note of a failed dial while `live` connections stand; True when it made us change the rung."""
        self.reasons[rung] = reason
        if rung != self.rung or live:
            return False
        self.failures += 1
        patience = DIALS_PER_PROVEN_RUNG if rung in self.proven else DIALS_PER_RUNG
        if self.failures < patience or len(self.rungs) == 1:
            return False
        self.position = (self.position + 1) % len(self.rungs)
        self.failures, self._arrived = 0, now
        return True

    def dial_succeeded(self, rung: str) -> bool:
        """Take note of a registration; True when it is the first on this rung since another was tried."""
        first = rung not in self.proven or rung in self.reasons
        self.proven.add(rung)
        self.reasons.pop(rung, None)
        if rung == self.rung:
            self.failures = 0
        return first

    def rest(self, live: int, now: float) -> None:
        """Before a dial: go back to the top if nothing holds us on a lower rung we have long been on."""
        if self.position and not live and now - self._arrived >= RETURN_AFTER:
            self.position, self.failures, self._arrived = 0, 0, now

    def explain(self) -> str:
        """Why the other rungs were not taken, in the ladder's order; empty when none was tried."""
        return "; ".join(f"{rung}: {self.reasons[rung]}" for rung in self.rungs if rung in self.reasons)
