"""Pings at the interval that ships, on a loop whose hour passes in seconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from qanat.gateway.config import GatewayConfig
from qanat.gateway.exchange import MessageExchange
from qanat.gateway.loop import Emit
from qanat.gateway.tools import ToolTable
from qanat.gateway.turn import Turn
from tests.support.requirements import requirement

SPEED = 200.0
TOOL_CALL = 30.0


class HastySelector(selectors.SelectSelector):
    """Waits a fraction of what it is told."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / SPEED)


class HastyLoop(asyncio.SelectorEventLoop):
    """A loop on which time passes `SPEED` times as fast."""

    def time(self) -> float:
        return super().time() * SPEED


async def converse() -> list[bytes]:
    """What is sent while a tool runs for half a minute."""
    sent: list[bytes] = []

    async def work(emit: Emit) -> Turn:
        turn = Turn("msg_1", "stub", ToolTable())
        await emit(turn.start())
        await asyncio.sleep(TOOL_CALL)
        await emit(turn.finish("end_turn"))
        return turn

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    interval = GatewayConfig.model_fields["ping_interval"].default
    assert isinstance(interval, timedelta)
    exchange = MessageExchange(
        work,
        stream=True,
        headers={},
        request_id="req_1",
        ping_interval=interval.total_seconds(),
        on_status=lambda _: None,
    )
    await exchange({"type": "http"}, receive, send)
    return sent


@requirement("messages:30")
def test_a_tool_call_of_half_a_minute_sees_pings_at_the_interval_that_ships() -> None:
    with asyncio.Runner(loop_factory=lambda: HastyLoop(HastySelector())) as runner:
        sent = runner.run(converse())
    kinds = [event.partition(b"\n")[0] for event in sent if event]
    assert kinds[0] == b"event: message_start"
    assert set(kinds[1:-1]) == {b"event: ping"}
    assert len(kinds[1:-1]) >= 2
