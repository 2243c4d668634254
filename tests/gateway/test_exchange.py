"""An HTTP exchange when it goes wrong in ways no model and no caller is to blame for."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from qanat.gateway.errors import APIError
from qanat.gateway.exchange import EventWriter, MessageExchange, impatient
from qanat.gateway.loop import Emit
from qanat.gateway.turn import Turn


async def receive() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()  # the caller stays
    raise AssertionError


async def work(_: Emit) -> Turn:
    raise APIError(400, "no")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_bug_while_answering_is_raised_and_not_swallowed(stream: bool) -> None:
    async def send(message: MutableMapping[str, Any]) -> None:
        raise ZeroDivisionError

    exchange = MessageExchange(
        work, stream=stream, headers={}, request_id="req_1", ping_interval=60, on_status=lambda _: None
    )
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(exchange({"type": "http"}, receive, send), 20)


async def test_a_caller_who_takes_nothing_any_more_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.gateway.exchange.STALLED", 0.05)
    statuses: list[int] = []
    ended = asyncio.Event()

    async def speak(emit: Emit) -> Turn:
        try:
            await emit([{"type": "ping"}])
            raise AssertionError("nobody took it")
        finally:
            ended.set()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    exchange = MessageExchange(
        speak, stream=True, headers={}, request_id="req_1", ping_interval=60, on_status=statuses.append
    )
    await asyncio.wait_for(exchange({"type": "http"}, receive, send), 20)
    assert ended.is_set()
    assert statuses == [499]


async def test_events_of_a_writer_who_is_cancelled_while_it_waits_go_out_with_the_next() -> None:
    sending, room, sent = asyncio.Event(), asyncio.Event(), list[bytes]()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))
        sending.set()
        await room.wait()

    writer = EventWriter(send, {}, 60)
    first = asyncio.create_task(writer.emit([{"type": "a"}]))
    await asyncio.wait_for(sending.wait(), 20)
    second = asyncio.create_task(writer.emit([{"type": "b"}]))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    room.set()
    await asyncio.wait_for(first, 20)
    await asyncio.wait_for(writer.emit([{"type": "c"}]), 20)
    names = [line for line in b"".join(sent).splitlines() if line.startswith(b"event")]
    assert names == [b"event: a", b"event: b", b"event: c"]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 6, 7, 10])
async def test_a_long_answer_is_handed_on_in_pieces(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("qanat.gateway.exchange.PIECE", 3)
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    body = bytes(range(size))
    for more in (True, False):
        sent.clear()
        await impatient(send)({"type": "http.response.body", "body": body, "more_body": more})
        assert b"".join(message["body"] for message in sent) == body
        assert [message["more_body"] for message in sent] == [True] * (len(sent) - 1) + [more]
        assert len(sent) == max(1, -(-size // 3))
