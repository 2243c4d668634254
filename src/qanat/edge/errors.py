"""What the edge refuses, and at which hop the trouble is.

The answer to a client is one of these as JSON, before any WebSocket exists. `code` and `hop` also travel as headers,
so that a node which relays for another can pass them on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

from qanat.errors import QanatError

Hop = Literal["client", "edge", "connector", "proxy"]

ERROR_HEADER = "X-Qanat-Error"
HOP_HEADER = "X-Qanat-Hop"


@dataclass(eq=False)
class EdgeRefused(QanatError):
    """A request the edge will not or cannot serve. `hop` names where to look."""

    hop: ClassVar[Hop] = "edge"

    def to_json(self) -> bytes:
        """The body of the answer."""
        error = {"code": self.code, "hop": self.hop, "message": str(self), "retryable": self.retryable}
        return json.dumps({"error": error}).encode()


class BadRequest(EdgeRefused):
    """The bytes are no HTTP/1.1 request we understand."""

    code, status, hop = "bad_request", 400, "client"


class HeadersTooLarge(EdgeRefused):
    """The request head is larger than `limits.header_bytes`."""

    code, status, hop = "headers_too_large", 431, "client"


class RequestTimeout(EdgeRefused):
    """The request head did not arrive within `limits.header_timeout`."""

    code, status, hop = "request_timeout", 408, "client"


class UpgradeRequired(EdgeRefused):
    """The edge serves nothing but WebSocket upgrades (version 13)."""

    code, status, hop = "upgrade_required", 426, "client"


class ClientNotMapped(EdgeRefused):
    """The client's certificate is genuine, but no entry of `clients` gives it an organization."""

    code, status, hop = "client_not_mapped", 403, "client"


class UnknownHost(EdgeRefused):
    """No tunnel has this hostname, or not for this client: the two look the same on purpose."""

    code, status, hop = "unknown_host", 404, "edge"


class TunnelArchived(EdgeRefused):
    """The tunnel was archived; that cannot be undone."""

    code, status, hop = "tunnel_archived", 410, "edge"


class TunnelHasNoCertificate(EdgeRefused):
    """No CA certificate is registered on the tunnel, so nobody could verify its proxy."""

    code, status, hop = "tunnel_has_no_certificate", 409, "edge"


class TunnelNotConnected(EdgeRefused):
    """No connector of this tunnel is connected to any edge node we know of."""

    code, status, retryable, hop = "tunnel_not_connected", 503, True, "connector"


class TunnelBusy(EdgeRefused):
    """Every connection of the tunnel is at its stream limit or unhealthy."""

    code, status, retryable, hop = "tunnel_busy", 503, True, "connector"


class ConnectorUnreachable(EdgeRefused):
    """The connection to the connector broke, or gave no answer, while the stream was being opened."""

    code, status, retryable, hop = "connector_unreachable", 502, True, "connector"


class ProxyUnreachable(EdgeRefused):
    """The connector answers, but cannot reach its proxy."""

    code, status, retryable, hop = "proxy_unreachable", 502, True, "connector"


class NoIngressRules(EdgeRefused):
    """The connector was told of no upstream (`--url` is missing): it answers everything with 503."""

    code, status, hop = "no_ingress_rules", 503, "connector"

    def __str__(self) -> str:
        return "No ingress rules were defined: the connector was started without --url"


class UpgradeRefused(EdgeRefused):
    """The proxy answered the upgrade with something other than 101."""

    code, status, hop = "upgrade_refused", 502, "proxy"


class NodeUnreachable(EdgeRefused):
    """The tunnel is connected to another edge node, which cannot be reached from here."""

    code, status, retryable, hop = "node_unreachable", 503, True, "edge"


class EdgeDraining(EdgeRefused):
    """This node is shutting down; another one, or this one soon, will serve."""

    code, status, retryable, hop = "edge_draining", 503, True, "edge"


class EdgeFailed(EdgeRefused):
    """A fault of the edge itself; its log has the traceback."""

    code, status, hop = "edge_failed", 500, "edge"


class DirectoryUnavailable(EdgeRefused):
    """The control plane cannot be asked about a tunnel this edge has not met before."""

    code, status, retryable, hop = "directory_unavailable", 503, True, "edge"


class TooManyStreams(EdgeRefused):
    """The tunnel or the client has as many streams open as `limits` allow."""

    code, status, retryable, hop = "too_many_streams", 429, True, "edge"


ALL: tuple[type[EdgeRefused], ...] = (
    BadRequest,
    HeadersTooLarge,
    RequestTimeout,
    UpgradeRequired,
    ClientNotMapped,
    UnknownHost,
    TunnelArchived,
    TunnelHasNoCertificate,
    TunnelNotConnected,
    TunnelBusy,
    ConnectorUnreachable,
    ProxyUnreachable,
    NoIngressRules,
    UpgradeRefused,
    NodeUnreachable,
    EdgeDraining,
    EdgeFailed,
    DirectoryUnavailable,
    TooManyStreams,
)
BY_CODE = {kind.code: kind for kind in ALL}


def refusal_for(code: str) -> EdgeRefused:
    """The refusal another node named by `code`; one we do not know is a node we cannot work with."""
    return BY_CODE.get(code, NodeUnreachable)()
