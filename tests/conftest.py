"""Fixtures that every part's tests share."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support.pki import throwaway_ca

# The only root that tests trust vouches for nothing: reading the system's for every client takes seconds of a run.
_ROOTS = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115 - for as long as the process
_ROOTS.write(throwaway_ca("nobody").certificate_pem)
_ROOTS.flush()
os.environ["SSL_CERT_FILE"] = _ROOTS.name
os.environ.pop("SSL_CERT_DIR", None)

pytest_plugins = ["tests.support.planted"]

# Nothing about time, and the same examples in every run: `make fuzz` is for new ones.
settings.register_profile("qanat", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qanat")

SLOW_TIMEOUT = 300
"""Seconds after which a slow test counts as stuck, unless it says otherwise: a machine may be very busy."""

gc.disable()  # until all tests are collected: a heap that only grows is not worth walking


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time than the others before they count as stuck."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def pytest_collection_finish() -> None:
    """Leave what importing made out of later collections: they pause tests that know about time, or count objects."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop the product runs on: its transports are not asyncio's."""
    return {"uvloop": uvloop.new_event_loop}
