"""How sessions with MCP servers end, when nobody waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from qanat.gateway.config import Limits
from qanat.gateway.goodbyes import Goodbyes
from qanat.gateway.mcp_link import Link
from tests.support.mcp_stub import StubMCP, stub_mcp


@asynccontextmanager
async def source() -> AsyncIterator[httpx2.AsyncBaseTransport]:
    async with httpx2.AsyncHTTPTransport() as transport:
        yield transport


def link_to(stub: StubMCP) -> Link:
    return Link(stub.url, None, source, Limits())


async def test_a_gateway_that_stops_lets_the_goodbyes_under_way_be_said() -> None:
    goodbyes = Goodbyes()
    async with stub_mcp(session_id="s-1") as stub:
        link = link_to(stub)
        await link.open()
        goodbyes.say(link)
        await goodbyes.aclose()
        assert stub.ended.is_set()
        assert link.spent


async def test_sessions_beyond_the_limit_end_without_a_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.gateway.goodbyes.MAX_GOODBYES", 0)
    goodbyes = Goodbyes()
    async with stub_mcp(session_id="s-1") as stub:
        stub.on["DELETE"] = stub.hang
        link = link_to(stub)
        await link.open()
        goodbyes.say(link)
        async with asyncio.timeout(20):
            await goodbyes.aclose()
        assert link.spent
        assert not stub.ended.is_set()
        assert "mcp link" not in {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.slow
async def test_a_server_that_never_answered_gets_no_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.gateway.mcp_link.GOODBYE", 3600)
    async with stub_mcp() as stub:
        stub.on["server/discover"] = stub.on["initialize"] = stub.hang
        opening = asyncio.create_task(link_to(stub).open())
        await asyncio.wait_for(stub.called.wait(), 20)
        opening.cancel()
        done, _ = await asyncio.wait([opening], timeout=20)
        assert done
