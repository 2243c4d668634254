"""Keeps a connector from having all its connections on one node while another is up.

The registrar sees to that when connections are made; this mends it afterwards, when a node has joined or come back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from uuid import UUID

from qanat.edge.connections import LiveConnections
from qanat.logger import get_logger
from qanat.tunnel.connection import EdgeConnection

PERIOD = 3.0
"""Seconds between two looks; at most one connection of a connector is moved each time."""

_log = get_logger("qanat.edge")


def overloaded(connections: LiveConnections, allowed: int) -> list[EdgeConnection]:
    """For each connector with more than `allowed` connections here, the least loaded one of them."""
    groups: dict[tuple[UUID, UUID], list[EdgeConnection]] = defaultdict(list)
    for connection in connections:
        groups[connection.request.tunnel_uuid, connection.request.connector.connector_id].append(connection)
    return [min(group, key=lambda each: each.open_streams) for group in groups.values() if len(group) > allowed]


async def balance(
    connections: LiveConnections, allowed: int, others_up: Callable[[], bool], move: Callable[[EdgeConnection], None]
) -> None:
    """Move connections away for ever, while there is somewhere to move to."""
    while True:
        await asyncio.sleep(PERIOD)
        if others_up():
            for connection in overloaded(connections, allowed):
                request = connection.request
                _log.info(
                    "moving a connection to another node",
                    connector_id=str(request.connector.connector_id),
                    conn_index=request.conn_index,
                )
                move(connection)
