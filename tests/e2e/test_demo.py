"""The request of the demo, through every part, asked by unmodified official clients."""

from __future__ import annotations

import json
from typing import Any

from anthropic import Anthropic
from anthropic.types.beta import BetaMessage
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from qanat.client import open_tunnel
from qanat.stack import Stack, join
from tests.support.requirements import requirement
from tests.support.stack import RunningStack

BETAS = ["mcp-client-2025-11-20"]


def sdk(running: RunningStack) -> Anthropic:
    environment = running.environment
    return Anthropic(base_url=environment["ANTHROPIC_BASE_URL"], api_key=environment["ANTHROPIC_API_KEY"])


def request(stack: Stack, server: str, question: str) -> Any:
    return {
        "model": "qanat-demo",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": question}],
        "mcp_servers": [{"type": "url", "url": stack.url(server), "name": server}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": server}],
        "betas": BETAS,
    }


def tool_result(message: BetaMessage) -> Any:
    """The first tool result, as data."""
    (result,) = [block for block in message.content if block.type == "mcp_tool_result"]
    assert not result.is_error
    assert not isinstance(result.content, str)
    return json.loads(result.content[0].text)


@requirement("stack:sdk")
def test_the_official_sdk_gets_data_of_the_ticket_database(running: RunningStack) -> None:
    with sdk(running) as client:
        message = client.beta.messages.create(**request(running.stack, "tickets", "List the open tickets"))
    assert [block.type for block in message.content] == ["text", "mcp_tool_use", "mcp_tool_result", "text"]
    assert "not a language model" in getattr(message.content[0], "text", "")
    use = next(block for block in message.content if block.type == "mcp_tool_use")
    assert (use.server_name, use.name, use.input) == ("tickets", "list_tickets", {"status": "open"})
    titles = [ticket["title"] for ticket in tool_result(message)["tickets"]]
    assert titles[0] == "Checkout returns 502 after 14:00"
    assert all(title in getattr(message.content[-1], "text", "") for title in titles)


@requirement("stack:sdk")
def test_the_same_request_can_be_streamed(running: RunningStack) -> None:
    asked = request(running.stack, "kb", "Search the articles about vpn")
    with sdk(running) as client, client.beta.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert "vpn-drops" in json.dumps(tool_result(message))
    assert "vpn-drops" in text


@requirement("stack:mcp-client")
async def test_the_official_mcp_client_calls_the_same_tools_through_the_tunnel(running: RunningStack) -> None:
    stack = running.stack
    async with (
        open_tunnel(
            join(stack.edge.client_address),
            certificate=stack.pki / "gateway.pem",
            key=stack.pki / "gateway-key.pem",
            ca=stack.customer / "ca.crt",
            edge_ca=stack.pki / "client-listener-ca.pem",
        ) as http,
        Client(streamable_http_client(stack.url("tickets"), http_client=http)) as client,
    ):
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("get_ticket", {"id": 4101})
    assert {"list_tickets", "get_ticket", "create_ticket"} <= names
    assert isinstance(result, CallToolResult)
    assert result.structured_content is not None
    assert result.structured_content["requester"] == "Ines Moreau"
