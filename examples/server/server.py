"""An MCP server with one tool, as anybody would write it with the official SDK. It knows nothing of tunnels."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("hello")


@server.tool()
def greet(name: str) -> str:
    """Greet somebody by name."""
    return f"Hello {name}, from inside the private network."


if __name__ == "__main__":
    server.run("streamable-http", port=int(sys.argv[1]) if len(sys.argv) > 1 else 9000)
