"""Which rung is dialled, and when another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qanat.connector.ladder import DIALS_PER_PROVEN_RUNG, RETURN_AFTER, RUNGS, Ladder
from tests.support.requirements import requirement


@requirement("connector:ladder")
def test_two_failed_dials_lead_to_the_next_rung_and_around() -> None:
    ladder = Ladder(RUNGS["auto"])
    seen = []
    for _ in range(8):
        seen.append(ladder.rung)
        ladder.dial_failed(ladder.rung, "refused", live=0, now=0.0)
    assert seen == ["http2", "http2", "quic", "quic", "wss", "wss", "http2", "http2"]


def test_a_given_protocol_is_never_left() -> None:
    for name in ("http2", "quic", "wss"):
        ladder = Ladder(RUNGS[name])
        assert not any(ladder.dial_failed(name, "refused", live=0, now=0.0) for _ in range(20))
        assert ladder.rung == name


def test_a_rung_that_carries_a_live_connection_is_not_left() -> None:
    ladder = Ladder(RUNGS["auto"])
    ladder.dial_succeeded("http2")
    assert not any(ladder.dial_failed("http2", "refused", live=1, now=0.0) for _ in range(20))


def test_a_rung_that_has_worked_gets_more_patience() -> None:
    ladder = Ladder(RUNGS["auto"])
    ladder.dial_succeeded("http2")
    moved = [ladder.dial_failed("http2", "refused", live=0, now=0.0) for _ in range(DIALS_PER_PROVEN_RUNG)]
    assert moved == [False] * (DIALS_PER_PROVEN_RUNG - 1) + [True]


def test_a_success_forgets_the_failures_before_it() -> None:
    ladder = Ladder(RUNGS["auto"])
    ladder.dial_failed("http2", "refused", live=0, now=0.0)
    ladder.dial_succeeded("http2")
    assert ladder.failures == 0
    assert ladder.explain() == ""


def test_the_late_failure_of_another_rung_changes_nothing() -> None:
    ladder = Ladder(RUNGS["auto"], position=1)
    assert not ladder.dial_failed("http2", "refused", live=0, now=0.0)
    assert ladder.failures == 0


@requirement("connector:ladder-explains")
def test_the_reasons_of_the_other_rungs_are_told_in_order() -> None:
    ladder = Ladder(RUNGS["auto"])
    for _ in range(2):
        ladder.dial_failed("http2", "connection refused", live=0, now=0.0)
    for _ in range(2):
        ladder.dial_failed("quic", "no answer", live=0, now=0.0)
    assert ladder.dial_succeeded("wss")
    assert ladder.explain() == "http2: connection refused; quic: no answer"
    assert not ladder.dial_succeeded("wss")


def test_a_lower_rung_is_given_up_for_the_top_when_nothing_holds_it_any_more() -> None:
    ladder = Ladder(RUNGS["auto"])
    for _ in range(2):
        ladder.dial_failed("http2", "refused", live=0, now=100.0)
    ladder.dial_succeeded("quic")
    ladder.rest(live=1, now=100.0 + RETURN_AFTER)
    assert ladder.rung == "quic"
    ladder.rest(live=0, now=99.0 + RETURN_AFTER)
    assert ladder.rung == "quic"
    ladder.rest(live=0, now=100.0 + RETURN_AFTER)
    assert ladder.rung == "http2"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60))
def test_whatever_happens_there_is_a_rung_and_no_rung_is_out_of_reach(history: list[tuple[bool, int]]) -> None:
    ladder = Ladder(RUNGS["auto"])
    for succeeded, live in history:
        if succeeded:
            ladder.dial_succeeded(ladder.rung)
        else:
            ladder.dial_failed(ladder.rung, "refused", live, now=0.0)
        assert ladder.rung in RUNGS["auto"]
    reached = set()
    for _ in range(3 * DIALS_PER_PROVEN_RUNG):
        reached.add(ladder.rung)
        ladder.dial_failed(ladder.rung, "refused", live=0, now=0.0)
    assert reached == set(RUNGS["auto"])
