"""The back-off as a schedule: floors, growth, caps, and what a minute of failure costs."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from qanat.connector.backoff import FLOOR, STABLE_AFTER, Backoff
from tests.support.requirements import requirement

RANDOM = st.floats(0, 1, exclude_max=True)


def attempts_in(seconds: float, pause: Callable[[], float]) -> int:
    """How many attempts fit into so many seconds."""
    clock, attempts = 0.0, 0
    while clock < seconds:
        attempts += 1
        clock += pause()
    return attempts


@requirement("connector:no-hot-loop")
@given(RANDOM, st.integers(1, 10))
def test_the_first_minute_of_failed_dials_costs_few_attempts(random: float, retries: int) -> None:
    backoff = Backoff(retries)
    assert attempts_in(60, lambda: backoff.after_failure(random)) <= (8 if retries >= 5 else 61)


@requirement("connector:no-hot-loop")
@given(RANDOM)
def test_the_first_minute_of_refusals_costs_fewer_still(random: float) -> None:
    backoff = Backoff()
    assert attempts_in(60, lambda: backoff.after_refusal(random)) <= 6


@requirement("connector:no-hot-loop")
@given(RANDOM)
def test_an_edge_that_accepts_and_closes_at_once_is_not_hammered(random: float) -> None:
    backoff = Backoff()
    assert attempts_in(60, lambda: backoff.after_loss(0.1, random)) <= 8


@requirement("connector:first-retry")
@given(RANDOM)
def test_the_first_pause_after_a_loss_is_below_a_second(random: float) -> None:
    assert FLOOR <= Backoff().after_loss(STABLE_AFTER, random) < 1.0
    assert FLOOR <= Backoff().after_loss(0.0, random) < 1.0


@given(RANDOM)
def test_pauses_double_up_to_the_cap_and_never_end(random: float) -> None:
    backoff = Backoff(retries=3)
    pauses = [backoff.after_failure(random) for _ in range(50)]
    assert pauses[0] <= 1.0
    assert pauses == sorted(pauses)
    assert pauses[-1] <= 8.0


def test_a_way_out_that_has_not_failed_is_tried_within_a_second() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.after_failure(0.5)
    assert FLOOR <= backoff.before_untried(0.9) < 1.0


def test_randomness_spreads_attempts_over_half_the_pause() -> None:
    first = [Backoff().after_failure(random / 10) for random in range(10)]
    assert len(set(first)) == 10
    assert min(first) >= 0.5


def test_a_connection_that_lived_long_begins_the_schedule_anew() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.after_failure(0.5)
    assert backoff.after_loss(STABLE_AFTER + 1, 0.5) < 1.0


def test_the_edge_may_ask_for_a_longer_pause_but_not_for_ever() -> None:
    assert Backoff().after_refusal(0.0, 60.0) == 60.0
    assert Backoff().after_refusal(0.0, 1e9) == 300.0
