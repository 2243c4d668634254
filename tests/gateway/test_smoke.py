"""The request from the documentation, end to end over loopback."""

from __future__ import annotations

from anthropic import AsyncAnthropic

from tests.support.answers import last_text
from tests.support.gateway import KEY, running_gateway, wiki_server


async def test_the_demo_model_calls_a_tool_and_tells_what_it_found() -> None:
    async with (
        wiki_server() as wiki,
        running_gateway() as gateway,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client,
    ):
        message = await client.beta.messages.create(
            model="qanat-demo",
            max_tokens=1000,
            messages=[{"role": "user", "content": "Search the wiki for 'qanats'"}],
            mcp_servers=[{"type": "url", "url": wiki.url, "name": "wiki"}],
            tools=[{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
            betas=["mcp-client-2025-11-20"],
        )
    assert [block.type for block in message.content] == ["text", "mcp_tool_use", "mcp_tool_result", "text"]
    assert wiki.calls == ["qanats"]
    assert "found qanats" in last_text(message)
