"""One gateway, one scripted model and one wiki per module; each test writes its own script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic

from qanat.gateway.server import Gateway
from tests.support.gateway import (
    KEY,
    Block,
    DictControl,
    Reply,
    ScriptedModel,
    Wiki,
    running_gateway,
    scripted_model,
    wiki_server,
)

BETA = "mcp-client-2025-11-20"


@dataclass
class Bench:
    """What a conversation is tried on."""

    gateway: Gateway
    model: ScriptedModel
    wiki: Wiki
    control: DictControl
    client: AsyncAnthropic

    def script(self, *replies: Reply) -> None:
        """What the model will say, and a clean slate."""
        self.model.script[:] = replies
        self.model.bodies.clear()
        self.model.headers.clear()
        self.model.raw.clear()
        self.model.stop_reason = None
        self.model.usage = {"input_tokens": 10, "output_tokens": 20}
        self.wiki.reset()

    def server(self, name: str = "wiki", **extra: Any) -> Block:
        return {"type": "url", "url": self.wiki.url, "name": name, **extra}

    def request(self, content: Any = "Question", **changes: Any) -> dict[str, Any]:
        """The documented request with one server `wiki`; None takes a field out."""
        fields: dict[str, Any] = {
            "model": "stub",
            "max_tokens": 1000,
            "messages": content if isinstance(content, list) else [{"role": "user", "content": content}],
            "mcp_servers": [self.server()],
            "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
            "betas": [BETA],
        }
        return {name: value for name, value in {**fields, **changes}.items() if value is not None}

    async def create(self, content: Any = "Question", **changes: Any) -> Any:
        return await self.client.beta.messages.create(**self.request(content, **changes))

    def toolset(self, name: str = "wiki", **extra: Any) -> Block:
        return {"type": "mcp_toolset", "mcp_server_name": name, **extra}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        control = DictControl()
        model = await stack.enter_async_context(scripted_model([]))
        wiki = await stack.enter_async_context(wiki_server())
        gateway = await stack.enter_async_context(running_gateway(model.url, control))
        client = AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0, timeout=30)
        await stack.enter_async_context(client)
        yield Bench(gateway, model, wiki, control, client)


@pytest.fixture
def blocks() -> Any:
    """Types of content blocks, for short assertions."""

    def types(content: Sequence[Any]) -> list[str]:
        return [block.type for block in content]

    return types
