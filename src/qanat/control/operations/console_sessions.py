"""Who is signed in to the console. A session is a random cookie value, kept here as its SHA-256.

A session is no API credential: it opens the console alone, and ends with what opened it. Viewers' sessions and
managers' differ only in the role, which the console checks on every change.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import SecretStr
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import AuthenticationFailed, PermissionDenied
from qanat.control.operations.authentication import SCOPES, Authentication, digest
from qanat.control.operations.context import Actor, Context, audit
from qanat.control.store.tables import AccessTokenRow, ConsoleSessionRow, OrganizationRow, WorkspaceRow

Role = Literal["manager", "viewer"]


@dataclass(frozen=True)
class ConsoleSession:
    """A signed-in person."""

    id: str
    organization_id: str
    workspace_id: str
    user: str
    role: Role
    csrf: str
    """What every form of this session must send back."""
    expires_at: datetime
    issuer: str | None = None
    """The provider that the person signed in at, if any."""

    @property
    def may_manage(self) -> bool:
        """Whether this person may change anything."""
        return self.role == "manager"

    def actor(self, address: str, request_id: str) -> Actor:
        """As operations and the audit trail know this person."""
        return Actor(
            id=self.user, kind="session", organization_id=self.organization_id, workspace_id=self.workspace_id,
            scopes=SCOPES, credential_id=self.id, address=address, request_id=request_id,
        )  # fmt: skip


@dataclass(frozen=True)
class Opening:
    """What opens a session: an operator's credential, or a provider with what it said of the person."""

    credential_id: str | None = None
    issuer: str | None = None
    subject: str | None = None
    id_token: str = field(default="", repr=False)
    """Kept sealed, to sign out at the provider; empty: not kept."""


class ConsoleSessions:
    """Begins, finds and ends sessions."""

    def __init__(self, context: Context, authentication: Authentication) -> None:
        self._context, self._authentication = context, authentication

    async def sign_in(self, credential: str, address: str, request_id: str) -> SecretStr:
        """A session for whoever holds an operator's credential. Raises `AuthenticationFailed`, `PermissionDenied`."""
        if not self._context.config.console.operator_sign_in:
            raise PermissionDenied("signing in with an operator's credential is switched off here")
        identity = await self._authentication.identify(credential.strip())
        if not identity.operator:
            raise PermissionDenied("this credential does not open the console; sign in with an operator's")
        opening = Opening(credential_id=identity.credential_id)
        return await self.begin(identity.organization_id, "user_operator", "manager", address, request_id, opening)

    async def begin(
        self, organization_id: str, user: str, role: Role, address: str, request_id: str, opening: Opening | None = None
    ) -> SecretStr:
        """A new session, always with a new value; returns the value of its cookie."""
        opening = opening or Opening()
        value, now, id = secrets.token_urlsafe(32), self._context.now(), self._context.new_id("csess")
        sealed = self._context.vault.seal(opening.id_token.encode(), f"id token {id}") if opening.id_token else None
        async with self._context.database.write() as session:
            organization = await session.get_one(OrganizationRow, organization_id)
            row = ConsoleSessionRow(
                sha256=digest(value), id=id, organization_id=organization_id,
                workspace_id=organization.default_workspace_id, user=user[:128], role=role,
                created_at=now, expires_at=now + self._context.config.console.session_lifetime,
                credential_id=opening.credential_id, issuer=opening.issuer, id_token_sealed=sealed,
            )  # fmt: skip
            session.add(row)
            await session.execute(delete(ConsoleSessionRow).where(ConsoleSessionRow.expires_at <= now))
            actor = Actor(user[:128], "session", organization_id, address=address, request_id=request_id)
            by = {"issuer": opening.issuer, "subject": opening.subject} if opening.issuer else {}
            audit(session, self._context, actor, "console.sign_in", row.id, role=role, **by)
        return SecretStr(value)

    async def find(self, value: str) -> ConsoleSession:
        """The session of a cookie. Raises `AuthenticationFailed`."""
        async with self._context.database.read() as session:
            row = await session.get(ConsoleSessionRow, digest(value))
            if row is None or row.expires_at <= self._context.now() or not await self._is_vouched_for(session, row):
                raise AuthenticationFailed
        role: Role = "manager" if row.role == "manager" else "viewer"
        csrf = digest(f"csrf {value}")
        return ConsoleSession(
            row.id, row.organization_id, row.workspace_id, row.user, role, csrf, row.expires_at, row.issuer
        )

    async def _is_vouched_for(self, session: AsyncSession, row: ConsoleSessionRow) -> bool:
        """Whether what opened a session would still open one."""
        console = self._context.config.console
        if row.issuer is not None:
            return console.single_sign_on is not None and console.single_sign_on.issuer == row.issuer
        if row.credential_id is None:
            return True
        query = select(AccessTokenRow).where(AccessTokenRow.id == row.credential_id)
        token = (await session.scalars(query)).one_or_none()
        return console.operator_sign_in and token is not None and self._authentication.accepts(token)

    async def id_token(self, value: str) -> str:
        """What the provider said at sign-in, for a session it opened; else empty."""
        async with self._context.database.read() as session:
            row = await session.get(ConsoleSessionRow, digest(value))
        if row is None or row.id_token_sealed is None:
            return ""
        return (await self._context.open(row.id_token_sealed, f"id token {row.id}")).decode()

    async def end(self, value: str) -> None:
        """Sign out: the cookie opens nothing any more."""
        async with self._context.database.write() as session:
            await session.execute(delete(ConsoleSessionRow).where(ConsoleSessionRow.sha256 == digest(value)))

    async def choose_workspace(self, value: str, workspace_id: str) -> None:
        """Look at another workspace from now on. Raises `PermissionDenied` for one of another organization."""
        async with self._context.database.write() as session:
            row = await session.get_one(ConsoleSessionRow, digest(value))
            workspace = await session.get(WorkspaceRow, workspace_id)
            if workspace is None or workspace.organization_id != row.organization_id:
                raise PermissionDenied("no such workspace in this organization")
            row.workspace_id = workspace_id
