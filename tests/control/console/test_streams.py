"""Streams of live parts: how many one person may have open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from qanat.control.console.live import MOST
from tests.support.console import Person, sign_in
from tests.support.control import Tenant


def begin(stack: ExitStack, person: Person) -> Iterator[bytes]:
    """Open one more stream."""
    answer = stack.enter_context(person.client.stream("GET", "/console/tunnels/live"))
    assert answer.status_code == 200
    return answer.iter_raw()


def is_served(chunks: Iterator[bytes]) -> bool:
    return next(chunks).startswith(b"retry: 300\ndata: ")


def test_one_person_cannot_have_streams_without_end(tenant: Tenant) -> None:
    greedy, other = sign_in(tenant, "viewer", "user_greedy"), sign_in(tenant, "viewer", "user_other")
    with ExitStack() as stack:
        with ExitStack() as many:
            streams = [begin(many, greedy) for _ in range(MOST)]
            assert all(map(is_served, streams))
            refused = begin(stack, greedy)
            assert not is_served(refused)
            assert next(refused, None) is None
            assert is_served(begin(stack, other))
        deadline = time.monotonic() + 20
        while not is_served(begin(stack, greedy)):
            assert time.monotonic() < deadline
