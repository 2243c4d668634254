"""Ask a model to use the MCP server "tickets", which listens nowhere but inside its own network.

The official SDK, unmodified: it reads ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY.
"""

import os

from anthropic import Anthropic

client = Anthropic()
message = client.beta.messages.create(
    model=os.environ.get("QANAT_MODEL", "qanat-demo"),
    max_tokens=1024,
    messages=[{"role": "user", "content": "List the open tickets"}],
    mcp_servers=[{"type": "url", "url": f"https://tickets.{os.environ['TUNNEL_DOMAIN']}/mcp", "name": "tickets"}],
    tools=[{"type": "mcp_toolset", "mcp_server_name": "tickets"}],
    betas=["mcp-client-2025-11-20"],
)
for block in message.content:
    if block.type == "mcp_tool_use":
        print(f"[{block.server_name}.{block.name} {block.input}]")
    elif block.type == "text":
        print(block.text)
