"""Limits on frames that cost the peer little and us something: resets, pings, settings, empty frames.

There is no clock here: counts run from one `reset` to the next, which the owner of the connection calls every ten
seconds or so (CVE-2019-9512 and its family, CVE-2023-44487).
"""

from __future__ import annotations

from enum import Enum

from qanat.wire.http2.frames import ErrorCode, HTTP2Error


class Nuisance(Enum):
    """What is counted, with how many are borne in a period."""

    UNANSWERED_RESETS = ("streams reset before an answer", 1_000)
    REFUSED_STREAMS = ("streams beyond the limit", 1_000)
    MALFORMED = ("malformed messages", 200)
    SETTINGS = ("SETTINGS frames", 100)
    PINGS = ("PING frames", 1_000)
    PRIORITIES = ("PRIORITY frames", 2_000)
    EMPTY_FRAMES = ("empty DATA frames", 1_000)
    LATE_FRAMES = ("frames on closed streams", 20_000)
    UNKNOWN_FRAMES = ("frames of unknown type", 1_000)


class FloodGuard:
    """Counts nuisances of one period."""

    def __init__(self) -> None:
        self._counts: dict[Nuisance, int] = {}

    def count(self, nuisance: Nuisance) -> None:
        """One more. Raises `HTTP2Error` when it is one too many."""
        name, limit = nuisance.value
        count = self._counts.get(nuisance, 0) + 1
        self._counts[nuisance] = count
        if count > limit:
            raise HTTP2Error(f"too many {name}", ErrorCode.ENHANCE_YOUR_CALM)

    def reset(self) -> None:
        """A new period begins."""
        self._counts.clear()
