"""The token bucket, in time that the test hands in."""

from __future__ import annotations

from qanat.proxy.policy.ratelimit import RateLimit, RateLimiter


def test_a_burst_passes_then_the_rate_holds() -> None:
    limiter = RateLimiter(RateLimit(requests=60, per=60.0, burst=3))
    assert [limiter.take("a", 100.0) for _ in range(4)] == [None, None, None, 1.0]
    assert limiter.take("a", 101.0) is None
    assert limiter.take("a", 101.0) == 1.0


def test_keys_do_not_share_a_bucket() -> None:
    limiter = RateLimiter(RateLimit(requests=1, per=60.0, burst=1))
    assert limiter.take("a", 0.0) is None
    assert limiter.take("b", 0.0) is None
    assert limiter.take("a", 0.0) == 60.0


def test_memory_is_bounded_and_the_longest_unused_key_goes_first() -> None:
    limiter = RateLimiter(RateLimit(requests=1, per=60.0, burst=1), max_keys=2)
    for key in ("a", "b", "c"):
        limiter.take(key, 0.0)
    assert limiter.take("c", 0.0) is not None
    assert limiter.take("a", 0.0) is None
