"""What a gateway keeps of the answer to a playground request, how many it takes on at once, and which hop it blames."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field

import pytest

from qanat.api.internal import Trial, TunnelRecord
from qanat.client import Edge
from qanat.gateway.access import Caller
from qanat.gateway.config import GatewayConfig
from qanat.gateway.errors import APIError
from qanat.gateway.playground import AT_ONCE, CUT, MAX_RESULT, MAX_TOOLS, Playground, Stopwatch, list_offered, to_texts
from qanat.gateway.reach import Reach
from qanat.gateway.results import from_mcp
from qanat.gateway.tools import ListedTool
from tests.support.gateway import DictControl, principal

URL = "https://wiki.abc.tunnel.example/mcp"


@dataclass
class SlowControl(DictControl):
    """Answers about tunnels once it is let."""

    asked: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        self.asked += 1
        if self.asked == AT_ONCE:
            self.full.set()
        await self.go_on.wait()
        return None


def playground(control: DictControl) -> Playground:
    edge = {"address": "127.0.0.1:1", "cert_file": "none", "key_file": "none", "base_domain": "tunnel.example"}
    settings = {"control": {"url": "http://127.0.0.1:1", "service_key": "x"}, "edge": edge}
    config = GatewayConfig.model_validate(settings)
    unused = Edge("127.0.0.1", 1, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return Playground(Reach(config, control, unused), config.limits)


async def test_more_than_a_few_at_once_have_to_wait() -> None:
    control = SlowControl()
    trying, caller = playground(control), Caller(principal())
    async with asyncio.TaskGroup() as group, asyncio.timeout(30):
        tasks = [group.create_task(trying.run(Trial(url=URL), caller)) for _ in range(AT_ONCE)]
        await control.full.wait()
        with pytest.raises(APIError, match="at once") as refused:
            await trying.run(Trial(url=URL), caller)
        assert refused.value.http_status == 429
        control.go_on.set()
        outcomes = [await task for task in tasks]
    assert {(outcome.hop, outcome.error) for outcome in outcomes} == {("client", "no such tunnel")}


@pytest.mark.parametrize(
    "url", ["https://example.com/mcp", "http://wiki.abc.tunnel.example/", "https://tunnel.example/"]
)
async def test_only_hosts_behind_tunnels_are_asked(url: str) -> None:
    with pytest.raises(APIError) as refused:
        await playground(DictControl()).run(Trial(url=url), Caller(principal()))
    assert refused.value.http_status == 400


def test_there_is_room_for_so_many_tools_and_no_more() -> None:
    tools, left_out = list_offered(tuple(ListedTool(f"t{n}", None, {}) for n in range(MAX_TOOLS + 3)))
    assert (len(tools), left_out) == (MAX_TOOLS, 3)
    large = {"description": "x" * 100_000}
    tools, left_out = list_offered(tuple(ListedTool(f"t{n}", None, large) for n in range(5)))
    assert (len(tools), left_out) == (2, 3)


def test_text_that_is_no_unicode_is_shown_all_the_same() -> None:
    (tool,), _ = list_offered((ListedTool("a\ud800", "b\udfff", {"title": "c\ud800"}),))
    assert (tool.name, tool.description, tool.input_schema) == ("a?", "b?", {"title": "c?"})
    assert to_texts(from_mcp({"content": [{"type": "text", "text": "a\ud800"}]})) == ("a?",)


def test_a_long_result_is_cut() -> None:
    texts = to_texts(from_mcp({"content": [{"type": "text", "text": "x" * MAX_RESULT}] * 3}))
    assert [len(text) for text in texts] == [MAX_RESULT]
    (text,) = to_texts(from_mcp({"content": [{"type": "text", "text": "x" * (MAX_RESULT + 1)}]}))
    assert text.endswith(CUT)


async def test_the_hop_that_is_waited_for_is_the_next_one() -> None:
    watch = Stopwatch()
    blamed = [watch.waiting_for]
    for name in ("edge", "connector", "proxy", "edge"):
        watch.dialled(name)
        blamed.append(watch.waiting_for)
    assert blamed == ["edge", "connector", "proxy", "upstream", "upstream"]
    assert [stretch.hop for stretch in watch.stretches] == ["edge", "connector", "proxy"], (
        "further sessions do not count"
    )
