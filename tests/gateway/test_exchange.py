"""An HTTP exchange when it goes wrong in ways no model and no caller is to blame for."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from qanat.gateway.errors import APIError
from qanat.gateway.exchange import MessageExchange
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
