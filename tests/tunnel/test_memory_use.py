"""What idle streams leave behind: nothing."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest
import uvloop.loop

from qanat.tunnel.http2 import ConnectorStream, EdgeStream
from qanat.wire.http2.sending import Stream
from tests.support.requirements import requirement
from tests.support.tunnel import TIMEOUT, Client, Upstream, tunnel

TIMERS: type = vars(uvloop.loop)["TimerHandle"]  # compiled, and in no stub
COUNTED = (Stream, EdgeStream, ConnectorStream, Client, Upstream, TIMERS)


def counts() -> Counter[str]:
    """Live objects that belong to streams."""
    gc.collect()
    return Counter(type(item).__name__ for item in gc.get_objects() if isinstance(item, COUNTED))


@requirement("tunnel:leak")
@pytest.mark.slow
async def test_a_thousand_idle_streams_leave_nothing_behind() -> None:
    async with tunnel("http2") as connection:
        before = counts()
        opened = [await connection.open_websocket() for _ in range(999)]  # the control stream is one more
        for client, upstream in opened:
            client.transport.write(b"hello")
            assert await client.receive(5) == b"hello"
            assert upstream.received == b"hello"
        assert connection.edge.available_streams == 0
        assert counts()["EdgeStream"] - before["EdgeStream"] == 999
        for client, _ in opened:
            client.transport.close()
        async with asyncio.timeout(TIMEOUT):
            for client, upstream in opened:
                await client.lost
                await upstream.lost
        for _ in range(20):
            await asyncio.sleep(0)
        del opened, client, upstream
        connection.clients.clear()
        connection.upstreams.heads.clear()
        assert connection.edge.open_streams == connection.connector.open_streams == 0
        assert not counts() - before, "more of these than before"
