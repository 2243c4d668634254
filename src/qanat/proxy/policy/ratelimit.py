"""A token bucket per key (route, caller or session), with a bound on how many keys are remembered.

Each replica counts for itself: two replicas let through twice as much.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`requests` each `per` seconds, and up to `burst` at once."""

    requests: int
    per: float
    burst: int


class RateLimiter:
    """Answers one question: may this request pass now?"""

    def __init__(self, limit: RateLimit, max_keys: int = MAX_KEYS) -> None:
        self._limit, self._max_keys = limit, max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Key to (tokens, when they were counted), the longest unused first."""

    def take(self, key: str, now: float) -> float | None:
        """None when the request may pass, else the seconds after which it may. `now` is monotonic seconds."""
        limit = self._limit
        rate = limit.requests / limit.per
        tokens, counted = self._buckets.pop(key, (float(limit.burst), now))
        tokens = min(float(limit.burst), tokens + (now - counted) * rate)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return None if allowed else (1 - tokens) / rate
