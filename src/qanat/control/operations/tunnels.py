"""Tunnels and their tokens."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import Invalid, NotFound, PermissionDenied, TunnelArchived, TunnelLimitExceeded
from qanat.control.nouns import Page, PlacedTunnel, Tunnel, TunnelToken
from qanat.control.operations.authentication import default_workspace
from qanat.control.operations.context import Actor, Context, audit, lock_organization, record_change
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.store.database import insert_new
from qanat.control.store.tables import CertificateRow, TunnelRow, UsedLabelRow, WorkspaceRow
from qanat.ids import TunnelUUID, is_well_formed
from qanat.wire.token import TunnelToken as Token

MAX_NAME = 255
MAX_REASON = 1000
MAX_LABEL_TRIES = 10_000
SECRET_SIZE = 32


class Tunnels:
    """What one can do with tunnels.

    `actor.workspace_id` bounds what is seen; None, possible on the deprecated surface only, spans the organization.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, actor: Actor, display_name: str | None = None) -> Tunnel:
        """A new tunnel in the actor's workspace. Raises `TunnelLimitExceeded`."""
        check_name(display_name)
        assert actor.workspace_id is not None, "tunnels are created in a workspace"
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            await self._check_workspace(session, actor.workspace_id)
            await self._check_limit(session, actor.organization_id)
            row = TunnelRow(
                id=context.new_id("tnl"),
                uuid=str(uuid.UUID(bytes=context.random_bytes(16), version=4)),
                account_tag=context.random_bytes(16).hex(),
                organization_id=actor.organization_id,
                workspace_id=actor.workspace_id,
                display_name=display_name,
                domain=await self._new_domain(session),
                generation=0,
                created_at=await self._creation_time(session, actor.organization_id),
                archived_at=None,
            )
            self._set_new_secret(row)
            session.add(row)
            await session.flush()
            audit(session, context, actor, "tunnel.create", row.id, domain=row.domain, token_id=row.token_id)
            await record_change(session, context, row)
        context.wake_followers()
        return show(row)

    async def check(self, actor: Actor, display_name: str) -> None:
        """Raises what `create` would, for who has to do something else first."""
        check_name(display_name)
        assert actor.workspace_id is not None, "tunnels are created in a workspace"
        async with self._context.database.read() as session:
            await self._check_workspace(session, actor.workspace_id)
            await self._check_limit(session, actor.organization_id)

    async def retrieve(self, actor: Actor, tunnel_id: str) -> Tunnel:
        """Raises `NotFound`, `PermissionDenied`."""
        async with self._context.database.read() as session:
            return show(await find_tunnel(session, actor, tunnel_id))

    async def list_page(self, actor: Actor, request: PageRequest) -> Page[Tunnel]:
        """The tunnels the actor sees, newest first."""
        rows, next_page = await self._rows(actor, actor.workspace_id, request)
        return Page(data=[show(row) for row in rows], next_page=next_page)

    async def archive(self, actor: Actor, tunnel_id: str, reason: str | None = None) -> Tunnel:
        """The tunnel, its certificates and token retired for ever. Repeating changes nothing."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_tunnel(session, actor, tunnel_id)
            if row.archived_at is not None:
                return show(row)
            row.archived_at = context.now()
            live = (CertificateRow.tunnel_id == row.id, CertificateRow.archived_at.is_(None))
            await session.execute(update(CertificateRow).where(*live).values(archived_at=row.archived_at))
            audit(session, context, actor, "tunnel.archive", row.id, workspace_id=row.workspace_id, reason=reason)
            await record_change(session, context, row)
        context.wake_followers()
        return show(row)

    async def reveal_token(self, actor: Actor, tunnel_id: str) -> TunnelToken:
        """The current token. Raises `TunnelArchived`."""
        context = self._context
        async with context.database.write() as session:
            row = await find_live_tunnel(session, actor, tunnel_id)
            token = await self._token(row)
            audit(
                session, context, actor, "tunnel.reveal_token", row.id, workspace_id=row.workspace_id, token_id=token.id
            )
        return token

    async def rotate_token(self, actor: Actor, tunnel_id: str, reason: str | None = None) -> TunnelToken:
        """A new token; the old one opens no new connection. Raises `TunnelArchived`."""
        check_reason(reason)
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_live_tunnel(session, actor, tunnel_id)
            previous = row.token_id
            self._set_new_secret(row)
            token = await self._token(row)
            audit(
                session, context, actor, "tunnel.rotate_token", row.id,
                workspace_id=row.workspace_id, reason=reason, token_id=token.id, previous_token_id=previous,
            )  # fmt: skip
            await record_change(session, context, row)
        context.wake_followers()
        return token

    def _set_new_secret(self, row: TunnelRow) -> None:
        secret = self._context.random_bytes(SECRET_SIZE)
        row.generation += 1
        row.secret_sealed = self._context.vault.seal(secret, f"tunnel {row.id}")
        row.secret_sha256 = hashlib.sha256(secret).hexdigest()
        row.token_id = token_id(Token(row.account_tag, TunnelUUID(uuid.UUID(row.uuid)), secret).encode())

    async def _token(self, row: TunnelRow) -> TunnelToken:
        secret = await self._context.open(row.secret_sealed, f"tunnel {row.id}")
        value = Token(row.account_tag, TunnelUUID(uuid.UUID(row.uuid)), secret).encode()
        return TunnelToken(id=row.token_id, tunnel_token=SecretStr(value))

    async def _check_limit(self, session: AsyncSession, organization_id: str) -> None:
        live = (TunnelRow.organization_id == organization_id, TunnelRow.archived_at.is_(None))
        count = (await session.execute(select(func.count()).select_from(TunnelRow).where(*live))).scalar_one()
        limit = self._context.config.limits.tunnels_per_organization
        if count >= limit:
            raise TunnelLimitExceeded(limit)

    async def _check_workspace(self, session: AsyncSession, workspace_id: str) -> None:
        row = await session.get(WorkspaceRow, workspace_id)
        if row is None or row.archived_at is not None:
            raise Invalid("", "workspace is archived")

    async def _creation_time(self, session: AsyncSession, organization_id: str) -> datetime:
        """Now, but never before the newest tunnel: lists are read newest first, also after the clock was set back."""
        newest = select(func.max(TunnelRow.created_at)).where(TunnelRow.organization_id == organization_id)
        last = (await session.execute(newest)).scalar_one_or_none()
        now = self._context.now()
        return now if last is None else max(now, last + timedelta(microseconds=1))

    async def _new_domain(self, session: AsyncSession) -> str:
        for _ in range(MAX_LABEL_TRIES):
            label = self._context.make_label().lower()
            if await insert_new(session, UsedLabelRow, label=label, used_at=self._context.now()):
                return f"{label}.{self._context.config.domain_base}"
        raise RuntimeError("the label generator gives nothing new")

    async def list_placed(self, actor: Actor, workspace_id: str | None, request: PageRequest) -> Page[PlacedTunnel]:
        """The organization's tunnels, each with its workspace; for the deprecated surface."""
        rows, next_page = await self._rows(actor, workspace_id, request)
        async with self._context.database.read() as session:
            default = await default_workspace(session, actor.organization_id)
        return Page(data=[show_placed(row, default) for row in rows], next_page=next_page)

    async def place(self, actor: Actor, tunnel_id: str) -> PlacedTunnel:
        """A tunnel with its workspace; for the deprecated surface."""
        async with self._context.database.read() as session:
            row = await find_tunnel(session, actor, tunnel_id)
            return show_placed(row, await default_workspace(session, actor.organization_id))

    async def _rows(
        self, actor: Actor, workspace_id: str | None, request: PageRequest
    ) -> tuple[list[TunnelRow], str | None]:
        query = select(TunnelRow).where(TunnelRow.organization_id == actor.organization_id)
        if workspace_id is not None:
            query = query.where(TunnelRow.workspace_id == workspace_id)
        if not request.include_archived:
            query = query.where(TunnelRow.archived_at.is_(None))
        filters = ["tunnels", actor.organization_id, workspace_id, request.include_archived]
        order = (TunnelRow.created_at, TunnelRow.id)
        async with self._context.database.read() as session:
            return await read_page(session, self._context.cursor_key, query, order, request, filters)


async def find_tunnel(session: AsyncSession, actor: Actor, tunnel_id: str) -> TunnelRow:
    """The tunnel, archived or not. Raises `NotFound` (also for another organization's), `PermissionDenied`."""
    row = await session.get(TunnelRow, tunnel_id) if is_well_formed("tnl", tunnel_id) else None
    if row is None or row.organization_id != actor.organization_id:
        raise NotFound("tunnel")
    if actor.workspace_id is not None and row.workspace_id != actor.workspace_id:
        raise PermissionDenied("this tunnel belongs to another workspace")
    return row


async def find_live_tunnel(session: AsyncSession, actor: Actor, tunnel_id: str) -> TunnelRow:
    """The tunnel. Raises `TunnelArchived` besides what `find_tunnel` raises."""
    row = await find_tunnel(session, actor, tunnel_id)
    if row.archived_at is not None:
        raise TunnelArchived
    return row


def token_id(value: str) -> str:
    """The public id of a token value: its hash, so it changes exactly when the value does."""
    return "ttkn_" + hashlib.sha256(value.encode()).hexdigest()


def check_name(display_name: str | None) -> None:
    if display_name is not None and not 1 <= len(display_name) <= MAX_NAME:
        raise Invalid("display_name", f"must have 1 to {MAX_NAME} characters")


def check_reason(reason: str | None) -> None:
    if reason is not None and len(reason) > MAX_REASON:
        raise Invalid("reason", f"must have at most {MAX_REASON} characters")


def show(row: TunnelRow) -> Tunnel:
    return Tunnel(
        id=row.id,
        display_name=row.display_name,
        domain=row.domain,
        created_at=row.created_at,
        archived_at=row.archived_at,
    )


def show_placed(row: TunnelRow, default_workspace_id: str) -> PlacedTunnel:
    workspace_id = None if row.workspace_id == default_workspace_id else row.workspace_id
    return PlacedTunnel(**show(row).model_dump(), workspace_id=workspace_id)
