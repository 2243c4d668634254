"""Which edge a connection goes to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from qanat.connector.spread import COOL_DOWN, FORGET_AFTER, MAX_COOL_DOWN, EdgeAddress, Spread
from tests.support.requirements import requirement

A, B, C = (EdgeAddress(f"192.0.2.{number}", 7844) for number in range(3))


@requirement("connector:spread")
@given(st.integers(2, 5))
def test_four_connections_use_at_least_two_edges_whenever_there_are_two(count: int) -> None:
    addresses = [EdgeAddress(f"192.0.2.{number}", 7844) for number in range(count)]
    spread, used = Spread(), list[EdgeAddress]()
    for _ in range(4):
        used.append(spread.choose(addresses, used, now=0.0))
    assert len(set(used)) == min(4, count)
    assert max(Counter(used).values()) <= -(-4 // count)


def test_an_address_that_failed_is_avoided_for_a_while() -> None:
    spread = Spread()
    spread.failed(A, now=100.0)
    assert spread.choose([A, B], [B, B, B], now=100.0 + COOL_DOWN - 0.1) == B
    assert spread.choose([A, B], [B, B, B], now=100.0 + COOL_DOWN) == A


def test_the_pause_grows_with_each_failure_and_ends_with_a_success() -> None:
    spread = Spread()
    spread.failed(A, now=0.0)
    spread.failed(A, now=0.0)
    assert spread.choose([A, B], [B], now=COOL_DOWN) == B
    spread.succeeded(A)
    assert spread.choose([A, B], [B], now=COOL_DOWN) == A


def test_when_all_have_failed_the_one_that_is_due_first_is_tried() -> None:
    spread = Spread()
    for now, address in enumerate((A, B, C)):
        spread.failed(address, now=float(now))
    assert spread.choose([A, B, C], [], now=3.0) == A


def test_old_failures_are_forgotten() -> None:
    spread = Spread()
    for _ in range(5):
        spread.failed(A, now=0.0)
    later = FORGET_AFTER + MAX_COOL_DOWN + 1
    spread.failed(B, now=later)
    spread.failed(A, now=later)
    assert spread.choose([A], [], now=later + COOL_DOWN) == A
    assert spread.choose([A, C], [C], now=later + COOL_DOWN) == A


def test_a_connection_moves_only_when_all_are_on_one_edge_and_another_is_fit() -> None:
    spread = Spread()
    assert spread.better([A, B], [A, A, A, A], now=0.0) == (A, B)
    assert spread.better([A, B], [A, A, A, B], now=0.0) is None
    assert spread.better([A], [A, A], now=0.0) is None
    assert spread.better([A, B], [A], now=0.0) is None
    spread.failed(B, now=0.0)
    assert spread.better([A, B], [A, A], now=0.0) is None
