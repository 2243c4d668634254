"""Which nodes there are, and which tunnels they hold: one node's picture of its cluster. Pure; `now` is an argument.

The picture is built from what nodes say of themselves. A node that falls silent is forgotten after a lifetime, but
only while we can hear: when our own ear (Redis) is gone, the last picture stands.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from uuid import UUID

from qanat.errors import ProtocolError

SUSPECT_SECONDS = 2.0
"""How long a node that could not be dialled comes last."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a node says of itself. `host` and `port` are where others relay to it."""

    id: str
    name: str
    host: str
    port: int
    accepting: bool = True
    """False while it drains: it takes neither connectors nor streams."""


@dataclass(frozen=True, slots=True)
class NodeSaid:
    """A node is alive, or (`node` None) gone for good."""

    node_id: str
    node: Node | None


@dataclass(frozen=True, slots=True)
class RouteSaid:
    """A node holds so many connections of a tunnel."""

    node_id: str
    tunnel: UUID
    connections: int


def encode(said: NodeSaid | RouteSaid) -> str:
    """A message as JSON."""
    if isinstance(said, RouteSaid):
        return json.dumps({"node_id": said.node_id, "tunnel": str(said.tunnel), "connections": said.connections})
    return json.dumps({"node_id": said.node_id, "node": None if said.node is None else asdict(said.node)})


def decode(text: str | bytes) -> NodeSaid | RouteSaid:
    """A message from JSON. Raises `ProtocolError`."""
    try:
        fields = json.loads(text)
        if "tunnel" in fields:
            return RouteSaid(str(fields["node_id"]), UUID(fields["tunnel"]), int(fields["connections"]))
        node = fields["node"]
        return NodeSaid(str(fields["node_id"]), None if node is None else Node(**node))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ProtocolError("not a message of an edge node") from None


@dataclass(slots=True)
class Membership:
    """The picture. `own_id` is this node, which is not part of it."""

    own_id: str
    lifetime: float
    nodes: dict[str, Node] = field(default_factory=dict)
    _heard: dict[str, float] = field(default_factory=dict)
    _routes: dict[UUID, dict[str, int]] = field(default_factory=dict)
    _suspect: dict[str, float] = field(default_factory=dict)

    def hear(self, said: NodeSaid | RouteSaid, now: float) -> None:
        """Take in a message."""
        if said.node_id == self.own_id:
            return
        if isinstance(said, RouteSaid):
            self._set_route(said)
        elif said.node is None:
            self.forget(said.node_id)
        else:
            self.nodes[said.node_id] = said.node
            self._heard[said.node_id] = now

    def _set_route(self, said: RouteSaid) -> None:
        holders = self._routes.setdefault(said.tunnel, {})
        if said.connections > 0:
            holders[said.node_id] = said.connections
        else:
            holders.pop(said.node_id, None)
        if not holders:
            del self._routes[said.tunnel]

    def forget(self, node_id: str) -> None:
        """A node is gone, with all it held."""
        self.nodes.pop(node_id, None)
        self._heard.pop(node_id, None)
        self._suspect.pop(node_id, None)
        for tunnel in [tunnel for tunnel, holders in self._routes.items() if node_id in holders]:
            self._set_route(RouteSaid(node_id, tunnel, 0))

    def replace(self, everything: list[NodeSaid | RouteSaid], now: float) -> None:
        """Start afresh from all that is known, as after an outage."""
        self.nodes.clear()
        self._heard.clear()
        self._routes.clear()
        for said in everything:
            self.hear(said, now)

    def expire(self, now: float) -> list[str]:
        """Forget nodes that have been silent for a lifetime; returns their names."""
        silent = [node_id for node_id, heard in self._heard.items() if now - heard > self.lifetime]
        names = [self.nodes[node_id].name for node_id in silent]
        for node_id in silent:
            self.forget(node_id)
        return names

    def suspect(self, node_id: str, now: float) -> None:
        """It could not be reached: prefer others for a while."""
        self._suspect[node_id] = now + SUSPECT_SECONDS

    def holders(self, tunnel: UUID, now: float) -> list[Node]:
        """Accepting nodes that hold the tunnel: reachable ones first, then those with the most connections."""
        holders = self._routes.get(tunnel, {})
        found = [self.nodes[node_id] for node_id in holders if node_id in self.nodes]
        found = [node for node in found if node.accepting]
        found.sort(key=lambda node: (self._suspect.get(node.id, 0.0) > now, -holders[node.id]))
        return found

    def others_up(self, now: float) -> bool:
        """Whether connectors could go to another node."""
        return any(node.accepting and self._suspect.get(node.id, 0.0) <= now for node in self.nodes.values())
