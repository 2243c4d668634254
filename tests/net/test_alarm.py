"""Alarms: they go off in order, cancelled ones never, and what was cancelled does not pile up."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from qanat.net.alarm import MIN_CANCELLED, Alarm, call_in
from tests.support.recorder import TIMEOUT, settle


async def test_alarms_go_off_in_the_order_of_their_deadlines() -> None:
    heard: list[str] = []
    done = asyncio.Event()
    call_in(0.03, done.set)
    call_in(0.02, partial(heard.append, "second"))
    call_in(0.01, partial(heard.append, "first"))
    call_in(0.0, partial(heard.append, "at once"))
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
    assert heard == ["at once", "first", "second"]


async def test_a_cancelled_alarm_never_goes_off() -> None:
    heard: list[str] = []
    done = asyncio.Event()
    alarm = call_in(0.0, partial(heard.append, "cancelled"))
    alarm.cancel()
    alarm.cancel()
    call_in(0.01, done.set)
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
    assert heard == []


async def test_an_alarm_may_cancel_one_that_is_due_with_it() -> None:
    heard: list[str] = []
    done = asyncio.Event()
    alarms: list[Alarm] = []
    call_in(0.01, lambda: alarms[0].cancel())
    alarms.append(call_in(0.01, partial(heard.append, "cancelled by its neighbour")))
    call_in(0.02, done.set)
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
    assert heard == []


async def test_one_that_fails_takes_no_other_with_it() -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    done = asyncio.Event()
    call_in(0.0, fail)
    call_in(0.0, done.set)
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
    assert [type(context["exception"]) for context in reported] == [ValueError]


async def test_an_alarm_may_set_the_next_one() -> None:
    beats: list[int] = []
    done = asyncio.Event()

    def beat() -> None:
        beats.append(len(beats))
        if len(beats) == 3:
            done.set()
        else:
            call_in(0.001, beat)

    beat()
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
    assert beats == [0, 1, 2]


async def test_what_was_cancelled_does_not_pile_up() -> None:
    alarms = [call_in(3600.0, settle) for _ in range(10)]
    kept = alarms[0]._alarms
    for _ in range(20 * MIN_CANCELLED):
        call_in(3600.0, settle).cancel()
        assert len(kept) <= 10 + 2 * MIN_CANCELLED
    for alarm in alarms:
        assert alarm.call is not None
        alarm.cancel()


@pytest.mark.parametrize("turn", [1, 2])
def test_every_loop_has_alarms_of_its_own(turn: int) -> None:
    async def wait_for_alarm() -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        call_in(3600.0, settle)  # left behind when the loop closes
        call_in(0.0, lambda: done.set_result(turn))
        async with asyncio.timeout(TIMEOUT):
            return await done

    assert asyncio.run(wait_for_alarm()) == turn
