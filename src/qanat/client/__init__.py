"""Reach a server behind a tunnel from Python: an HTTP client whose requests travel through the edge.

from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from qanat.client import open_tunnel

async with open_tunnel("edge.example:443", certificate="client.pem", key="client.key", ca="ca.pem") as http:
    async with Client(streamable_http_client("https://wiki.abc.tunnels.example/mcp", http_client=http)) as mcp:
        print(await mcp.call_tool("search", {"q": "x"}))
"""

from qanat.client.dial import Edge, dial, outer_context
from qanat.client.errors import TunnelError, TunnelFailed, TunnelLost
from qanat.client.transport import TunnelTransport, open_tunnel

__all__ = [
    "Edge",
    "TunnelError",
    "TunnelFailed",
    "TunnelLost",
    "TunnelTransport",
    "dial",
    "open_tunnel",
    "outer_context",
]
