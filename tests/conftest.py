"""Fixtures that every part's tests share."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import uvloop
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.planted"]

# Nothing about time, and the same examples in every run: `make fuzz` is for new ones.
settings.register_profile("qanat", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qanat")

gc.disable()  # until all tests are collected: a heap that only grows is not worth walking


def pytest_collection_finish() -> None:
    """Leave what importing made out of later collections: they pause tests that know about time, or count objects."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop the product runs on: its transports are not asyncio's."""
    return {"uvloop": uvloop.new_event_loop}
