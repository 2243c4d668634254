"""Alarms: any number of deadlines on one timer of the loop.

A session has several that hardly ever go off: its handshake, its pulse, its idle limit. A timer of the event loop's
for each would weigh half a kilobyte; an alarm weighs a tenth of that, and costs less to set and to cancel.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

CLOCK_STEP: Final = 0.001
"""Seconds by which the loop's timers may be early."""
MIN_CANCELLED: Final = 256
"""Cancelled alarms that may lie about, at least, before they are cleared away."""


class Alarm:
    """One deadline. `cancel` may be called at any time, any number of times."""

    __slots__ = ("_alarms", "call", "due")

    def __init__(self, alarms: _Alarms, due: float, call: Callable[[], object]) -> None:
        self._alarms, self.due = alarms, due
        self.call: Callable[[], object] | None = call
        """None once it went off or was cancelled."""

    def __lt__(self, other: Alarm) -> bool:
        return self.due < other.due

    def cancel(self) -> None:
        """It shall not go off."""
        if self.call is not None:
            self.call = None
            self._alarms.note_cancelled()


class _Alarms:
    """The alarms of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._heap: list[Alarm] = []
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, delay: float, call: Callable[[], object]) -> Alarm:
        alarm = Alarm(self, self.loop.time() + delay, call)
        heappush(self._heap, alarm)
        if self._heap[0] is alarm:
            self._wind()
        return alarm

    def note_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > MIN_CANCELLED and self._cancelled * 2 > len(self._heap):
            self._cancelled = 0
            self._heap = [alarm for alarm in self._heap if alarm.call is not None]
            heapify(self._heap)
            self._wind()

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._heap[0].due, self._ring) if self._heap else None

    def _ring(self) -> None:
        heap, now = self._heap, self.loop.time() + CLOCK_STEP
        while heap and (heap[0].due <= now or heap[0].call is None):
            alarm = heappop(heap)
            if alarm.call is None:
                self._cancelled -= 1
                continue
            self.loop.call_soon(_go_off, alarm)  # each by itself: one that fails takes no other with it
        self._wind()


def _go_off(alarm: Alarm) -> None:
    call, alarm.call = alarm.call, None
    if call is not None:  # not cancelled at the last moment
        call()


_of_thread: Final = threading.local()


def call_in(delay: float, call: Callable[[], object]) -> Alarm:
    """Call `call` in so many seconds, unless the alarm is cancelled before. Like `loop.call_later`, but light."""
    loop = asyncio.get_running_loop()
    alarms: _Alarms | None = getattr(_of_thread, "alarms", None)
    if alarms is None or alarms.loop is not loop:
        alarms = _of_thread.alarms = _Alarms(loop)
    return alarms.set(delay, call)
