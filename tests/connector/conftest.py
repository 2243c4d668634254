"""What the connector's tests share."""

from __future__ import annotations

from qanat.config import validate
from qanat.connector.config import ConnectorConfig
from tests.support.loopback_edge import LoopbackEdge, tunnel_token

RUNGS = ["http2", "quic", "wss"]


def config_for(edge: LoopbackEdge, /, **changes: object) -> ConnectorConfig:
    """What a connector of `edge` is told; a change to None leaves a setting out."""
    settings: dict[str, object] = {
        "token": tunnel_token(),
        "edge": [edge.address],
        "edge_wss": [edge.wss_url],
        "cacert": edge.cacert,
        "ha_connections": 1,
    }
    given = {key: value for key, value in (settings | changes).items() if value is not None}
    return validate(ConnectorConfig, given)
