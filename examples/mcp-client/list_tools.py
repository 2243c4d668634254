"""Reach the MCP server "tickets" through the tunnel with the official MCP client: no gateway, no model.

The client shows the edge a certificate of its own, and trusts exactly the CA certificate of the tunnel.
"""

import asyncio
import os
from pathlib import Path

from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from qanat.client import open_tunnel


async def main() -> None:
    files = Path(os.environ["QANAT_FILES"])
    async with open_tunnel(
        os.environ["QANAT_EDGE"],
        certificate=files / "operator/gateway.pem",
        key=files / "operator/gateway-key.pem",
        ca=files / "customer/ca.crt",
        edge_ca=files / "operator/client-listener-ca.pem",
    ) as http:
        url = f"https://tickets.{os.environ['TUNNEL_DOMAIN']}/mcp"
        async with Client(streamable_http_client(url, http_client=http)) as tickets:
            for tool in (await tickets.list_tools()).tools:
                print(f"{tool.name}: {tool.description}")


asyncio.run(main())
