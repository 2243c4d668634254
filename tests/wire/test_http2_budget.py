"""What the byte path may cost, counted in function calls: the same on every machine, and a number that only falls.

Raise a budget only with a reason. What the calls cost in time is measured by `bench/`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from qanat.wire.http2 import HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from tests.support.chunks import exchange
from tests.support.http2 import GET, OK, POST
from tests.support.requirements import requirement

LARGE = Settings(initial_window=1024 * 1024, connection_window=16 * 1024 * 1024)
PER_MESSAGE = 25.5
"""Calls for a message of 1 KB: written, framed, read, acknowledged, and its share of the credit."""
PER_MESSAGE_IN_A_BATCH = 15.0
"""The same when sixteen travel in one write."""
PER_REQUEST = 440.0
"""Calls for a request with seven fields and its answer, at both ends; more than half of them are hpack's decoder."""


def calls(run: Callable[[], None]) -> int:
    """How many functions, Python's and C's, `run` calls."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def ready() -> tuple[HTTP2Connection, HTTP2Connection, int]:
    client, server = HTTP2Connection(True, LARGE, capped=True), HTTP2Connection(False, LARGE)
    exchange(client, server)
    stream = client.open_stream(POST)
    exchange(client, server)
    server.send_headers(stream, OK)
    exchange(client, server)
    return client, server, stream


def send(rounds: int, batch: int) -> None:
    client, server, stream = ready()
    payload = b"x" * 1024
    for _ in range(rounds):
        for _ in range(batch):
            client.send_data(stream, payload)
        server.receive_data(client.data_to_send())
        for event in server.events_received():
            assert isinstance(event, h2.DataReceived)
            server.acknowledge(event.stream_id, len(event.data))
        if credit := server.data_to_send():
            client.receive_data(credit)


def ask(rounds: int) -> None:
    client, server, _ = ready()
    head = (*GET, ("accept", "*/*"), ("user-agent", "test"), ("authorization", "Bearer x"))
    answer = (*OK, ("content-type", "application/json"), ("content-length", "5"))
    for _ in range(rounds):
        stream = client.open_stream(head, end_stream=True)
        server.receive_data(client.data_to_send())
        server.events_received()
        server.send_headers(stream, answer)
        server.send_data(stream, b"hello")
        server.end_stream(stream)
        client.receive_data(server.data_to_send())
        client.events_received()


def per_round(run: Callable[[int], None], rounds: int = 400) -> float:
    """Calls per round, without what setting up costs."""
    run(1)  # fills caches
    return (calls(lambda: run(rounds)) - calls(lambda: run(0))) / rounds


@requirement("wire:h2:budget")
def test_a_message_stays_within_its_budget() -> None:
    assert per_round(lambda rounds: send(rounds, 1)) <= PER_MESSAGE


@requirement("wire:h2:budget")
def test_messages_in_a_batch_stay_within_their_budget() -> None:
    assert per_round(lambda rounds: send(rounds, 16)) / 16 <= PER_MESSAGE_IN_A_BATCH


@requirement("wire:h2:budget")
def test_a_request_stays_within_its_budget() -> None:
    assert per_round(ask) <= PER_REQUEST
