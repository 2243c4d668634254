"""Rate limits: a token bucket for each credential, address or rule, in memory of this process."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from qanat.clock import Clock
from qanat.control.config import Limits
from qanat.control.errors import RateLimited
from qanat.control.metrics import Metrics
from qanat.logger import get_logger

log = get_logger("qanat.control")
MAX_KEYS = 20_000
"""Buckets remembered; beyond it the one unused longest is forgotten, which refills it."""


@dataclass
class _Bucket:
    left: float
    at: float


class Buckets:
    """`per_minute` at once, then evenly refilled."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._size, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> None:
        """Raises `RateLimited` when the bucket of `key` is empty."""
        now = self._clock.monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(self._size, now))
        self._buckets.move_to_end(key)
        bucket.left = min(self._size, bucket.left + (now - bucket.at) * self._size / 60)
        bucket.at = now
        if bucket.left < 1:
            raise RateLimited(math.ceil((1 - bucket.left) * 60 / self._size))
        bucket.left -= 1
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)

    def give_back(self, key: str) -> None:
        """Undo one `take`."""
        if (bucket := self._buckets.get(key)) is not None:
            bucket.left = min(self._size, bucket.left + 1)


class RateLimits:
    """The limits of the API. Whom one of them stops is told, logged and counted."""

    def __init__(self, limits: Limits, clock: Clock, metrics: Metrics) -> None:
        self._metrics = metrics
        rates = {
            "requests": limits.requests_per_minute,
            "admin_requests": limits.admin_requests_per_minute,
            "token_reads": limits.token_reads_per_minute,
            "exchanges": limits.exchanges_per_minute,
        }
        self._buckets = {limit: Buckets(per_minute, clock) for limit, per_minute in rates.items()}

    def count_request(self, credential_id: str) -> None:
        """One call with a credential."""
        self._take("requests", credential_id)

    def count_admin_request(self, credential_id: str) -> None:
        """One call of an operator under `/admin/v1`."""
        self._take("admin_requests", credential_id)

    def count_token_read(self, credential_id: str) -> None:
        """One reveal or rotate."""
        self._take("token_reads", credential_id)

    def count_exchange(self, address: str) -> None:
        """One token exchange that an address asks for."""
        self._take("exchanges", f"address {address}")

    def count_proven_exchange(self, address: str, rule_id: str) -> None:
        """It turned out that the caller may: then it counts for the rule instead of the address.

        Counted any sooner, whoever knows a rule's id could use up what its bearers need.
        """
        self._buckets["exchanges"].give_back(f"address {address}")
        self._take("exchanges", f"rule {rule_id}")

    def _take(self, limit: str, whose: str) -> None:
        try:
            self._buckets[limit].take(whose)
        except RateLimited as refusal:
            self._metrics.rate_limited.labels(limit).inc()
            log.warn("rate limit exceeded", limit=limit, whose=whose, retry_after=refusal.retry_after)
            raise
