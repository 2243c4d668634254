"""Fixtures that every part's tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop the product runs on: its transports are not asyncio's."""
    return {"uvloop": uvloop.new_event_loop}
