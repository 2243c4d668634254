"""This node as a member of its cluster: what it hears and says, where others relay to it, how it relays to them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from uuid import UUID

from qanat.edge.cluster import ClusterDirectory
from qanat.edge.config import EdgeConfig
from qanat.edge.connections import LiveConnections
from qanat.edge.membership import Membership, Node
from qanat.edge.metrics import Metrics
from qanat.edge.node_relay import NodeListener, NodeRelay
from qanat.edge.sessions import Sessions

JOIN_SECONDS = 3.0
"""How long a start waits for Redis before it goes on without."""


class ClusterNode:
    """`start` joins the cluster, `close` leaves it."""

    def __init__(self, config: EdgeConfig, connections: LiveConnections, metrics: Metrics) -> None:
        assert config.cluster is not None
        self._config, self._cluster = config, config.cluster
        self._connections, self._metrics = connections, metrics
        self.members = Membership(uuid.uuid4().hex, self._cluster.lifetime.total_seconds())
        self.relay = NodeRelay(self._cluster, self.members)
        self._listener: NodeListener | None = None
        self.directory: ClusterDirectory | None = None

    def others_up(self) -> bool:
        """Whether another node takes connectors now."""
        return self.members.others_up(asyncio.get_running_loop().time())

    async def start(self, sessions: Sessions) -> Callable[[UUID], None]:
        """Listen for other nodes and join them; returns who is to hear of changed tunnels. Raises `OSError`."""
        self._listener = NodeListener(self._cluster, self._config.limits, sessions, self._metrics)
        host, port = await self._listener.start()
        node = Node(self.members.own_id, self._config.name, self._cluster.advertise_host or host, port)
        self.directory = ClusterDirectory(self._cluster, node, self._connections, self.members, self._metrics)
        await self.directory.start(JOIN_SECONDS)
        return self.directory.changed

    def leave(self) -> None:
        """The node drains."""
        if self.directory is not None:
            self.directory.leave()

    async def close(self) -> None:
        """Say good-bye and end every relay."""
        if self._listener is not None:
            await self._listener.close()
        if self.directory is not None:
            await self.directory.close()
