"""What the cache of tool lists keeps, and for whom."""

from __future__ import annotations

import pytest

from qanat.gateway import tool_cache
from qanat.gateway.access import Caller
from qanat.gateway.request import Server, Toolset
from qanat.gateway.tool_cache import ToolCache
from qanat.gateway.tools import ListedTool, Listing
from tests.support.gateway import principal

CALLER = Caller(principal())


def server(number: int) -> Server:
    toolset = Toolset(type="mcp_toolset", mcp_server_name="wiki")
    return Server(0, "wiki", f"https://wiki.example/mcp?{number}", None, toolset, 0)


def listing(size: int) -> Listing:
    return (ListedTool("t", "x" * size, {}),)


def test_lists_are_kept_by_their_size_and_a_huge_one_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_cache, "MAX_SIZE", 1600)
    cache = ToolCache(60)
    cache.put(CALLER, server(0), listing(101), None, 0)
    assert cache.get(CALLER, server(0), 1) is None
    for number in range(40):
        cache.put(CALLER, server(number), listing(90), None, 0)
        cache.put(CALLER, server(number), listing(90), None, 0)
    kept = [number for number in range(40) if cache.get(CALLER, server(number), 1) is not None]
    assert kept == list(range(40 - len(kept), 40))
    assert 10 < len(kept) <= 17


def test_a_list_expires_with_the_servers_hint_or_ours() -> None:
    cache = ToolCache(60)
    for number, hint in enumerate((None, 5.0, 1000.0, 0.0)):
        cache.put(CALLER, server(number), listing(1), hint, 0)
    for now, found in ((4, [0, 1, 2]), (6, [0, 2]), (61, [])):
        assert [number for number in range(4) if cache.get(CALLER, server(number), now) is not None] == found
    assert cache.get(Caller(principal("b")), server(0), 1) is None
