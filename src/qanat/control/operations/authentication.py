"""From a presented credential to who it stands for, and what that one may do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import AuthenticationFailed, Invalid, PermissionDenied
from qanat.control.operations.context import Context
from qanat.control.store.tables import (
    AccessTokenRow,
    APIKeyRow,
    MembershipRow,
    OrganizationRow,
    ServiceAccountRow,
    WorkspaceRow,
)
from qanat.ids import is_well_formed

MANAGE_TUNNELS = "workspace:manage_tunnels"
DEVELOPER = "workspace:developer"
INFERENCE = "workspace:inference"
ORG_ADMIN = "org:admin"
ORG_MANAGE_TUNNELS = "org:manage_tunnels"
PLAYGROUND = "console:playground"
"""What a ticket of the console's playground is good for, and nobody else can have."""
SCOPES = frozenset({MANAGE_TUNNELS, DEVELOPER, INFERENCE, ORG_ADMIN, ORG_MANAGE_TUNNELS})
OPERATOR_KINDS = ("bootstrap", "session", "local")
MAX_CREDENTIAL = 4096
Kind = Literal["access_token", "tunnels_api_key", "bootstrap", "session", "api_key", "admin_key", "playground"]
_TOKEN_KINDS: dict[str, Kind] = {
    "access_token": "access_token",
    "tunnels_api_key": "tunnels_api_key",
    "bootstrap": "bootstrap",
    "session": "session",
    "playground": "playground",
}


@dataclass(frozen=True)
class Identity:
    """Who a credential stands for. `workspace_id` is None where it acts for the whole organization."""

    credential_id: str
    kind: Kind
    organization_id: str
    default_workspace_id: str
    workspace_id: str | None
    scopes: frozenset[str]
    subject: str
    expires_at: datetime | None
    member: bool = True
    """False: its service account was taken out of the workspace, or the workspace was archived."""

    @property
    def operator(self) -> bool:
        return self.kind in OPERATOR_KINDS


def digest(credential: str) -> str:
    """What we keep of a credential."""
    return hashlib.sha256(credential.encode(errors="surrogatepass")).hexdigest()


class Authentication:
    """Looks credentials up by the hash of the whole value, wherever in the request they came from."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def identify(self, credential: str) -> Identity:
        """Raises `AuthenticationFailed` when it is unknown, expired, revoked or inactive."""
        if not credential or len(credential) > MAX_CREDENTIAL:
            raise AuthenticationFailed
        sha256 = digest(credential)
        async with self._context.database.read() as session:
            token = await session.get(AccessTokenRow, sha256)
            if token is not None:
                return await self._token_identity(session, token)
            key = await session.get(APIKeyRow, sha256)
            if key is not None:
                return await self._key_identity(session, key)
        raise AuthenticationFailed

    def accepts(self, row: AccessTokenRow) -> bool:
        """Whether a token is still good for anything: not expired, not revoked, not switched off."""
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self._context.now()):
            return False
        return row.kind != "bootstrap" or self._context.config.bootstrap.enabled

    async def _token_identity(self, session: AsyncSession, row: AccessTokenRow) -> Identity:
        if not self.accepts(row):
            raise AuthenticationFailed
        member, scopes = True, frozenset(row.scope.split())
        default = await default_workspace(session, row.organization_id)
        workspace_id = None if scopes and scopes <= {ORG_ADMIN, ORG_MANAGE_TUNNELS} else row.workspace_id
        if row.service_account_id is not None:
            account = await session.get(ServiceAccountRow, row.service_account_id)
            if account is None or account.archived_at is not None:
                raise AuthenticationFailed
            if account.organization_role != "admin":
                scopes -= {ORG_ADMIN}
            member = workspace_id in (None, default) or await is_member(session, workspace_id, account.id)
        if workspace_id is not None:
            member = member and await _is_live(session, workspace_id)
        return Identity(
            row.id,
            _TOKEN_KINDS[row.kind],
            row.organization_id,
            default,
            workspace_id,
            scopes,
            row.subject,
            row.expires_at,
            member,
        )

    async def _key_identity(self, session: AsyncSession, row: APIKeyRow) -> Identity:
        if row.status != "active" or (row.expires_at is not None and row.expires_at <= self._context.now()):
            raise AuthenticationFailed
        default = await default_workspace(session, row.organization_id)
        kind: Kind = "admin_key" if row.kind == "admin" else "api_key"
        scopes = frozenset() if kind == "admin_key" else frozenset({DEVELOPER, INFERENCE})
        member = row.workspace_id is None or await _is_live(session, row.workspace_id)
        workspace_id = None if kind == "admin_key" else row.workspace_id or default
        return Identity(
            row.id, kind, row.organization_id, default, workspace_id, scopes, row.id, row.expires_at, member
        )

    async def choose_workspace(self, identity: Identity, asked: str | None) -> str:
        """The workspace a request acts in. Raises `Invalid` (malformed), `PermissionDenied` (not its own)."""
        if asked is not None and asked != "default" and not is_well_formed("wrkspc", asked):
            raise Invalid("anthropic-workspace-id", "must be a workspace id such as wrkspc_01…")
        wanted = identity.default_workspace_id if asked == "default" else asked
        if identity.operator and identity.workspace_id is None:
            return await self._operator_workspace(identity, wanted)
        bound = identity.workspace_id or identity.default_workspace_id
        if wanted is not None and wanted != bound:
            raise PermissionDenied("this credential belongs to another workspace")
        if not identity.member:
            raise PermissionDenied("this credential is no longer a member of its workspace")
        return bound

    async def _operator_workspace(self, identity: Identity, wanted: str | None) -> str:
        if wanted is None:
            return identity.default_workspace_id
        async with self._context.database.read() as session:
            row = await session.get(WorkspaceRow, wanted)
        if row is None or row.organization_id != identity.organization_id:
            raise PermissionDenied("no such workspace in this organization")
        return wanted


async def is_member(session: AsyncSession, workspace_id: str | None, service_account_id: str) -> bool:
    """Whether an explicit membership exists."""
    return await session.get(MembershipRow, (workspace_id, service_account_id)) is not None


async def _is_live(session: AsyncSession, workspace_id: str) -> bool:
    row = await session.get(WorkspaceRow, workspace_id)
    return row is not None and row.archived_at is None


async def default_workspace(session: AsyncSession, organization_id: str) -> str:
    """The organization's default workspace."""
    query = select(OrganizationRow.default_workspace_id).where(OrganizationRow.id == organization_id)
    return (await session.execute(query)).scalar_one()
