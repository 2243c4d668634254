"""Counts function calls: a measure of work that is the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from types import FrameType
from typing import Any


async def counted(work: Awaitable[object]) -> int:
    """How many functions, Python's and C's, are called until `work` is done, the event loop's among them."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(profile)
    try:
        await work
    finally:
        sys.setprofile(None)
    return count
