"""Self-hosted MCP tunnels: client -> edge -> connector -> proxy -> upstream MCP server."""

from importlib.metadata import version

__version__ = version("qanat")
