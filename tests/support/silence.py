"""A program for `unshare --net`: an edge and a connector in one network namespace, and a firewall between them.

    python -m tests.support.silence RUNG DIRECTORY

Registers, drops every packet by a firewall rule, waits until both ends have noticed, lets packets pass again, waits
until the connector is back. Prints a line of JSON: seconds until each end noticed, and whether it came back.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from qanat.config import validate
from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve
from tests.support.loopback_edge import loopback_edge, tunnel_token
from tests.support.tunnel import Upstreams

LIMIT = 40.0
RULES = """
table inet silence {
    chain incoming { type filter hook input priority 0; policy drop; }
}
"""


def nft(*arguments: str, rules: str = "") -> None:
    """Run nft."""
    subprocess.run(["nft", *arguments], input=rules, text=True, check=True, capture_output=True, timeout=20)


async def main(rung: str, directory: Path) -> dict[str, object]:
    """See above."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LIMIT), loopback_edge(directory) as edge:
        settings = {
            "token": tunnel_token(),
            "edge": [edge.address],
            "edge_wss": [edge.wss_url],
            "cacert": edge.cacert,
            "protocol": rung,
            "ha_connections": 1,
            "grace_period": "0s",
        }
        async with serve(validate(ConnectorConfig, settings), Upstreams()) as connector:
            await connector.wait_ready()
            (connection,) = await edge.guests.wait(1)
            nft("-f", "-", rules=RULES)
            start = loop.time()

            async def connector_notices() -> float:
                while connector.ready_connections:
                    await connector.wait_changed()
                return loop.time() - start

            async def edge_notices() -> float:
                await connection.wait_closed()
                return loop.time() - start

            noticed = await asyncio.gather(connector_notices(), edge_notices())
            nft("delete", "table", "inet", "silence")
            await connector.wait_ready()
            await edge.guests.wait(1)
            return {"connector": noticed[0], "edge": noticed[1], "back": True}


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=20)
    print(json.dumps(asyncio.run(main(sys.argv[1], Path(sys.argv[2])))))
