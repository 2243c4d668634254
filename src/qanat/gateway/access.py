"""Who is asking: the caller's credential, and what it may do here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from qanat.api.credential import presented_in
from qanat.api.internal import Change, Principal, TunnelRecord
from qanat.clock import Clock, SystemClock
from qanat.errors import QanatError
from qanat.gateway.errors import APIError
from qanat.ids import WorkspaceID, is_well_formed
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
SCOPES = frozenset({"workspace:inference", "workspace:developer"})
REMEMBERED = 4096
LIFETIME = 5.0
"""Seconds an answer of the control plane is taken again without asking: revocation takes no longer than this."""
STATIC = 300.0
"""Seconds an answer still counts while the control plane is down."""


class ControlPlane(Protocol):
    """What the gateway asks the control plane. Raises `QanatError` when it cannot answer."""

    async def authenticate(self, credential: str, workspace_id: WorkspaceID | None = None) -> Principal | None: ...

    async def by_domain(self, domain: str) -> TunnelRecord | None: ...

    def changes(self, after: int | None) -> AsyncIterator[Change]: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """An admitted caller."""

    principal: Principal

    @property
    def scope(self) -> tuple[str, str]:
        """What separates caches and connections of one caller from another's."""
        return (self.principal.organization_id, self.principal.workspace_id or "")


class Gatekeeper:
    """Admits callers, remembering the control plane's answers for a moment."""

    def __init__(self, control: ControlPlane, clock: Clock | None = None) -> None:
        self._control, self._clock = control, clock or SystemClock()
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def admit(self, headers: Mapping[str, str], now: float) -> Caller:
        """The caller of the Messages API behind a request. Raises `APIError` (400, 401, 403, 500)."""
        principal = await self._principal(headers, now)
        if principal.kind not in ("api_key", "access_token") or not principal.scopes & SCOPES:
            raise APIError(403, "This credential may not use the Messages API")
        return Caller(principal)

    async def admit_console(self, headers: Mapping[str, str], now: float) -> Caller:
        """The person at the console behind a request, by their ticket. Raises `APIError` (400, 401, 403, 500)."""
        principal = await self._principal(headers, now)
        if principal.kind != "playground":
            raise APIError(403, "This is for the console")
        return Caller(principal)

    async def _principal(self, headers: Mapping[str, str], now: float) -> Principal:
        credential = presented_in(headers)
        if credential is None:
            raise APIError(401, "x-api-key or authorization header is required")
        workspace = headers.get("anthropic-workspace-id")
        # The control plane refuses such a question, and that we could not tell from its being out of order.
        if workspace and workspace != "default" and not is_well_formed("wrkspc", workspace):
            raise APIError(400, "anthropic-workspace-id: must be a workspace id such as wrkspc_01…")
        principal = await self._identify(credential, workspace, now)
        if principal is None:
            raise APIError(401, "invalid bearer token" if "authorization" in headers else "invalid x-api-key")
        return principal

    async def _identify(self, credential: str, workspace: str | None, now: float) -> Principal | None:
        key = hashlib.sha256(f"{workspace or ''}\n{credential}".encode()).digest()
        known = self._known.get(key)
        if known is not None and self._over(known[1]):
            known = None
        if known is not None and now < known[0]:
            return known[1]
        try:
            principal = await self._control.authenticate(credential, WorkspaceID(workspace) if workspace else None)
        except QanatError as error:
            log.error("control plane unavailable", error=str(error))
            if known is not None and now < known[0] + STATIC:
                return known[1]
            raise APIError(500, "Authentication is temporarily unavailable") from None
        if principal is None:
            self._known.pop(key, None)
            return None
        self._known[key] = (now + LIFETIME, principal)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return principal

    def _over(self, principal: Principal) -> bool:
        """Whether its time is up: that counts at once, and while the control plane is down."""
        return principal.expires_at is not None and principal.expires_at <= self._clock.now()
