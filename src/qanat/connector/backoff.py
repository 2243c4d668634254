"""How long to wait before the next attempt, as a pure schedule.

It never spins (every pause has a floor) and never gives up. Randomness spreads a fleet that lost its edge at one
moment, and the first pause after a loss stays below a second so that a short outage stays short.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOOR = 0.1
"""Seconds: no pause is shorter."""
FIRST_RETRY = 0.9
"""Seconds: the longest pause after an established connection is lost."""
STABLE_AFTER = 10.0
"""Seconds a connection must have lived for its loss to count as the first trouble."""
REFUSED_FLOOR = 2.0
"""Seconds: the shortest pause after the edge refused to register us; only a person or a new token mends that."""


@dataclass(slots=True)
class Backoff:
    """One slot's schedule. `retries` caps the exponent, so the longest pause is `2 ** retries` seconds.

    `random` arguments are numbers in [0, 1); `now` is monotonic seconds.
    """

    retries: int = 5
    attempts: int = 0
    """Failures in a row."""

    def after_failure(self, random: float) -> float:
        """The pause after a failed dial: half to all of 1, 2, 4 … seconds."""
        longest = 2.0 ** min(self.attempts, self.retries)
        self.attempts += 1
        return max(FLOOR, longest * (0.5 + random / 2))

    def before_untried(self, random: float) -> float:
        """The pause before a way out that has not failed yet: what is known of the others says nothing about it."""
        return FLOOR + (FIRST_RETRY - FLOOR) * random

    def after_refusal(self, random: float, retry_after: float = 0.0) -> float:
        """The pause after a refused registration: at least what the edge asked for, at most five minutes of it."""
        pause = 2 * self.after_failure(random)
        return max(REFUSED_FLOOR, pause, min(retry_after, 300.0))

    def after_loss(self, lived: float, random: float) -> float:
        """The pause after an established connection was lost, having lived for `lived` seconds.

        Only a life of some length starts the schedule anew: an edge may accept connections and close them at once.
        """
        if lived >= STABLE_AFTER:
            self.attempts = 0
        if self.attempts:
            return self.after_failure(random)
        self.attempts = 1
        return FLOOR + (FIRST_RETRY - FLOOR) * random
