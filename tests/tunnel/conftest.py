"""One fixture runs each test over every carrier."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.tunnel import CARRIERS, Tunnel, tunnel


@pytest.fixture(params=sorted(CARRIERS))
def carrier(request: pytest.FixtureRequest) -> str:
    """The name of a carrier."""
    name: str = request.param
    return name


@pytest.fixture
async def connection(carrier: str) -> AsyncIterator[Tunnel]:
    """A registered connection whose upstreams echo."""
    async with tunnel(carrier) as opened:
        yield opened
