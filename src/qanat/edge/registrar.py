"""Who may serve a tunnel: checks a connector's token, and counts what it may have.

The text of a refusal reaches the connector. A stock cloudflared gives up for good on its first connection unless the
text contains `Unauthorized`, so every refusal that may pass (a token about to be replaced, a full or draining node)
contains it, and only an archived tunnel, which never comes back, does not.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qanat.api.internal import TunnelRecord
from qanat.edge.cache import CachedDirectory
from qanat.edge.config import Limits
from qanat.edge.connections import LiveConnections
from qanat.edge.errors import DirectoryUnavailable
from qanat.tunnel.connection import Registered, RegistrationRefused, RegistrationRequest

PATIENT_ATTEMPTS = 2
"""Refusals after which a connector that cannot reach other nodes gets one more connection here than its share."""


@dataclass(eq=False)
class Refusal(RegistrationRefused):
    """A refusal with a short name for logs and metrics."""

    code: ClassVar[str] = "registration_refused"
    name: str = ""


def invalid_token() -> Refusal:
    """Unknown tunnel, wrong account and wrong secret look the same from outside."""
    return Refusal("Unauthorized: Invalid tunnel secret", name="invalid_token")


def archived() -> Refusal:
    """Said only to who holds the tunnel's secret."""
    return Refusal("the tunnel has been archived", should_retry=False, name="tunnel_archived")


def unavailable() -> Refusal:
    """The control plane is away, and this edge has not met the tunnel before."""
    return Refusal("Unauthorized: cannot be checked now, try again", retry_after=2.0, name="directory_unavailable")


def too_many(what: str) -> Refusal:
    """A limit of this node."""
    return Refusal(f"Unauthorized for now: {what}", retry_after=10.0, name="too_many_connections")


def draining() -> Refusal:
    """The node is shutting down."""
    return Refusal("Unauthorized here: edge draining, use another node", retry_after=1.0, name="edge_draining")


def spread() -> Refusal:
    """The connector should put its other connections on other nodes, so that no one node can take all of them down."""
    cause = "Unauthorized here: this node already serves this connector, connect to another node as well"
    return Refusal(cause, retry_after=1.0, name="spread")


def check_secret(record: TunnelRecord | None, request: RegistrationRequest) -> bool:
    """Whether the request's account and secret are the tunnel's; takes as long for a tunnel that does not exist."""
    expected = record.secret_sha256 if record is not None else "0" * 64
    account = record.account_tag if record is not None else ""
    same_secret = hmac.compare_digest(hashlib.sha256(request.secret).hexdigest(), expected)
    same_account = hmac.compare_digest(request.account_tag.encode(), account.encode())
    return record is not None and same_secret and same_account


class TokenCheck:
    """Decides on registrations. `others_up` tells whether other nodes take connections now."""

    def __init__(
        self,
        directory: CachedDirectory,
        connections: LiveConnections,
        limits: Limits,
        location: str,
        *,
        share: int = 2,
        others_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory, self._connections = directory, connections
        self._limits, self._location = limits, location
        self._share, self._others_up = share, others_up
        self.draining = False

    async def admit(self, request: RegistrationRequest) -> tuple[TunnelRecord, Registered]:
        """The tunnel's record and our yes. Raises `Refusal`."""
        if self.draining:
            raise draining()
        try:
            record = await self._directory.by_uuid(request.tunnel_uuid)
        except DirectoryUnavailable:
            raise unavailable() from None
        if record is None or not check_secret(record, request):
            raise invalid_token()
        if record.archived:
            raise archived()
        self._check_numbers(request)
        return record, Registered(uuid.uuid4(), self._location)

    def _check_numbers(self, request: RegistrationRequest) -> None:
        tunnel, connector = request.tunnel_uuid, request.connector.connector_id
        mine = [
            each
            for each in self._connections.of_connector(tunnel, connector)
            if each.request.conn_index != request.conn_index  # the same index replaces, so does not add
        ]
        if len(mine) >= self._limits.connections_per_connector:
            raise too_many("too many connections of this connector")
        if len(self._connections.of_tunnel(tunnel)) >= self._limits.connections_per_tunnel + (
            len(self._connections.of_connector(tunnel, connector)) - len(mine)
        ):
            raise too_many("too many connections of this tunnel")
        patience = 1 if request.previous_attempts >= PATIENT_ATTEMPTS else 0
        if len(mine) >= self._share + patience and self._others_up():
            raise spread()
