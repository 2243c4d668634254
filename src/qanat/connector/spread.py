"""Which edge address a connection should go to: spread over as many as there are, away from those that fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

COOL_DOWN = 5.0
"""Seconds an address is avoided after its first failure; doubled for each further one."""
MAX_COOL_DOWN = 60.0
FORGET_AFTER = 600.0
"""Seconds after which a failure that was not repeated is forgotten."""


@dataclass(frozen=True, slots=True, order=True)
class EdgeAddress:
    """One place to dial. `server_name` is what its certificate must be for, when that is not a fixed name."""

    host: str
    port: int
    server_name: str = ""
    path: str = ""


@dataclass(slots=True)
class Spread:
    """Remembers which addresses failed of late. `now` is monotonic seconds."""

    _failures: Counter[EdgeAddress] = field(default_factory=Counter)
    _avoid_until: dict[EdgeAddress, float] = field(default_factory=dict)

    def choose(self, addresses: Sequence[EdgeAddress], in_use: Iterable[EdgeAddress], now: float) -> EdgeAddress:
        """The address with the fewest connections of ours, rather one that has not just failed.

        When all of them have just failed, the one whose failure is longest ago.
        """
        used = Counter(in_use)
        good = [address for address in addresses if self._avoid_until.get(address, 0.0) <= now]
        if good:
            return min(good, key=lambda address: used[address])
        return min(addresses, key=lambda address: self._avoid_until[address])

    def better(
        self, addresses: Sequence[EdgeAddress], in_use: Sequence[EdgeAddress], now: float
    ) -> tuple[EdgeAddress, EdgeAddress] | None:
        """An address that a connection could move from, and one that it should move to; None when they are spread.

        Moving costs a reconnect, so it must gain something: all on one edge, while there is another.
        """
        if len(in_use) < 2 or len(set(in_use)) > 1:
            return None
        others = [each for each in addresses if each not in in_use and self._avoid_until.get(each, 0.0) <= now]
        return (in_use[0], others[0]) if others else None

    def failed(self, address: EdgeAddress, now: float) -> None:
        """A dial or a registration failed there."""
        for old in [each for each, until in self._avoid_until.items() if until < now - FORGET_AFTER]:
            self.succeeded(old)  # addresses come and go with DNS
        self._failures[address] += 1
        cool_down = min(MAX_COOL_DOWN, COOL_DOWN * 2 ** (self._failures[address] - 1))
        self._avoid_until[address] = now + cool_down

    def succeeded(self, address: EdgeAddress) -> None:
        """A registration went through there."""
        self._failures.pop(address, None)
        self._avoid_until.pop(address, None)
