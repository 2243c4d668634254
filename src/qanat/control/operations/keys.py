"""Credentials that operators mint: API keys, Tunnels API keys, and an operator's own short-lived token."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import Invalid, NotFound, PermissionDenied
from qanat.control.nouns import AccessToken, APIKey, Page
from qanat.control.operations.authentication import MANAGE_TUNNELS, SCOPES, default_workspace, digest
from qanat.control.operations.context import Actor, Context, audit
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.store.tables import AccessTokenRow, APIKeyRow, WorkspaceRow
from qanat.ids import base58

MIN_TUNNELS_KEY_LIFETIME = timedelta(minutes=5)
MAX_TUNNELS_KEY_LIFETIME = timedelta(hours=24)
BREAK_GLASS_LIFETIME = timedelta(hours=1)
API_KEY_PREFIX = {"workspace": "sk-ant-api03-", "admin": "sk-ant-admin01-"}


class Keys:
    """What one can do with minted credentials. All of it is for operators only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create_api_key(
        self, actor: Actor, name: str, workspace_id: str | None, expires_at: datetime | None, kind: str = "workspace"
    ) -> APIKey:
        """A key for the Messages API, shown this once. Raises `Invalid` for an end that is over already."""
        check_operator(actor)
        if expires_at is not None and expires_at <= self._context.now():
            raise Invalid("expires_at", "must be in the future; leave it out for a key that does not expire")
        context, value = self._context, self._new_value(API_KEY_PREFIX[kind])
        async with context.database.write() as session:
            if kind == "workspace":
                workspace_id = await live_workspace(session, actor.organization_id, workspace_id)
            row = APIKeyRow(
                sha256=digest(value), id=context.new_id("apikey"), kind=kind, name=check_key_name(name),
                partial_key_hint=f"{value[:17]}...{value[-4:]}", organization_id=actor.organization_id,
                workspace_id=workspace_id, status="active", created_at=context.now(),
                created_by_actor_id=actor.id, expires_at=expires_at,
            )  # fmt: skip
            session.add(row)
            audit(session, context, actor, "api_key.create", row.id, workspace_id=workspace_id, kind=kind)
        return self._show_key(row, SecretStr(value))

    async def list_api_keys(self, actor: Actor, request: PageRequest) -> Page[APIKey]:
        """Newest first; archived ones only when asked for."""
        check_operator(actor)
        query = select(APIKeyRow).where(APIKeyRow.organization_id == actor.organization_id)
        if not request.include_archived:
            query = query.where(APIKeyRow.status != "archived")
        filters = ["api_keys", actor.organization_id, request.include_archived]
        order = (APIKeyRow.created_at, APIKeyRow.id)
        async with self._context.database.read() as session:
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        return Page(data=[self._show_key(row) for row in rows], next_page=next_page)

    async def set_api_key_status(self, actor: Actor, key_id: str, status: str) -> APIKey:
        """`active`, `inactive` or, for ever, `archived`."""
        check_operator(actor)
        async with self._context.database.write() as session:
            query = select(APIKeyRow).where(APIKeyRow.id == key_id, APIKeyRow.organization_id == actor.organization_id)
            row = (await session.scalars(query.with_for_update())).one_or_none()
            if row is None:
                raise NotFound("api key")
            if row.status == "archived" and status != "archived":
                raise Invalid("status", "an archived key stays archived")
            row.status = status
            audit(session, self._context, actor, "api_key.update", row.id, workspace_id=row.workspace_id, status=status)
        return self._show_key(row)

    async def create_tunnels_key(
        self, actor: Actor, name: str, workspace_id: str | None, lifetime: timedelta
    ) -> AccessToken:
        """A Tunnels API key: a bearer for one workspace with the tunnels scope, shown this once."""
        if not MIN_TUNNELS_KEY_LIFETIME <= lifetime <= MAX_TUNNELS_KEY_LIFETIME:
            raise Invalid("lifetime_seconds", "must be 300 to 86400 (5 minutes to 24 hours)")
        check_operator(actor)
        return await self._create_token(actor, "tunnels_api_key", name, workspace_id, MANAGE_TUNNELS, lifetime)

    async def create_operator_token(self, actor: Actor) -> AccessToken:
        """A token with an operator's rights for an hour: for whoever stands at the server, the other keys lost."""
        if actor.kind != "local":
            raise PermissionDenied("only on the server itself")
        scope = " ".join(sorted(SCOPES))
        return await self._create_token(actor, "session", "break-glass", None, scope, BREAK_GLASS_LIFETIME, bound=False)

    async def _create_token(
        self, actor: Actor, kind: str, name: str, workspace_id: str | None, scope: str, lifetime: timedelta,
        *, bound: bool = True,
    ) -> AccessToken:  # fmt: skip
        context, value = self._context, self._new_value(self._context.config.access_token_prefix)
        async with context.database.write() as session:
            if bound:
                workspace_id = await live_workspace(session, actor.organization_id, workspace_id)
            now, id = context.now(), context.new_id("oat")
            row = AccessTokenRow(
                sha256=digest(value), id=id, kind=kind, name=check_key_name(name),
                organization_id=actor.organization_id, workspace_id=workspace_id,
                subject=id if kind == "tunnels_api_key" else "user_operator", service_account_id=None, rule_id=None,
                scope=scope, assertion=None, created_at=now, created_by_actor_id=actor.id, expires_at=now + lifetime,
                revoked_at=None,
            )  # fmt: skip
            session.add(row)
            audit(session, context, actor, f"{kind}.create", row.id, workspace_id=workspace_id, scope=scope)
        return show_token(row, SecretStr(value))

    async def list_tokens(self, actor: Actor, kind: str | None, request: PageRequest) -> Page[AccessToken]:
        """Tokens given out and not expired, newest first; `include_archived` shows revoked and expired ones too."""
        check_operator(actor)
        query = select(AccessTokenRow).where(AccessTokenRow.organization_id == actor.organization_id)
        if kind is not None:
            query = query.where(AccessTokenRow.kind == kind)
        if not request.include_archived:
            now = self._context.now()
            alive = AccessTokenRow.expires_at.is_(None) | (AccessTokenRow.expires_at > now)
            query = query.where(AccessTokenRow.revoked_at.is_(None), alive)
        filters = ["tokens", actor.organization_id, kind, request.include_archived]
        order = (AccessTokenRow.created_at, AccessTokenRow.id)
        async with self._context.database.read() as session:
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        return Page(data=[show_token(row) for row in rows], next_page=next_page)

    async def revoke_token(self, actor: Actor, token_id: str) -> AccessToken:
        """From now on the token is refused. Repeating changes nothing."""
        check_operator(actor)
        context = self._context
        async with context.database.write() as session:
            mine = (AccessTokenRow.id == token_id, AccessTokenRow.organization_id == actor.organization_id)
            row = (await session.scalars(select(AccessTokenRow).where(*mine).with_for_update())).one_or_none()
            if row is None:
                raise NotFound("access token")
            if row.revoked_at is None:
                row.revoked_at = context.now()
                audit(session, context, actor, f"{row.kind}.revoke", row.id, workspace_id=row.workspace_id)
        return show_token(row)

    async def revoke_tokens_of(self, actor: Actor, service_account_id: str) -> int:
        """Revoke every live token of a service account. Returns how many."""
        check_operator(actor)
        context = self._context
        async with context.database.write() as session:
            live = (
                AccessTokenRow.organization_id == actor.organization_id,
                AccessTokenRow.service_account_id == service_account_id,
                AccessTokenRow.revoked_at.is_(None),
            )
            result = await session.execute(update(AccessTokenRow).where(*live).values(revoked_at=context.now()))
            count = int(getattr(result, "rowcount", 0))
            audit(session, context, actor, "access_token.revoke_all", service_account_id, count=count)
        return count

    def _new_value(self, prefix: str) -> str:
        return prefix + base58(int.from_bytes(self._context.random_bytes(32), "big"), 44)

    def _show_key(self, row: APIKeyRow, value: SecretStr | None = None) -> APIKey:
        expired = row.status == "active" and row.expires_at is not None and row.expires_at <= self._context.now()
        return APIKey.model_validate(
            {
                "id": row.id, "name": row.name, "status": "expired" if expired else row.status,
                "partial_key_hint": row.partial_key_hint, "workspace_id": row.workspace_id,
                "created_at": row.created_at, "created_by_actor_id": row.created_by_actor_id,
                "expires_at": row.expires_at, "key": value,
            }
        )  # fmt: skip


def show_token(row: AccessTokenRow, value: SecretStr | None = None) -> AccessToken:
    return AccessToken(
        id=row.id, kind=row.kind, name=row.name, workspace_id=row.workspace_id, subject=row.subject, scope=row.scope,
        created_at=row.created_at, created_by_actor_id=row.created_by_actor_id, expires_at=row.expires_at,
        revoked_at=row.revoked_at, token=value,
    )  # fmt: skip


def check_operator(actor: Actor) -> None:
    """Raises `PermissionDenied` unless a person, or the bootstrap credential, is acting."""
    if not actor.interactive:
        raise PermissionDenied("only an operator may do this")


def check_key_name(name: str) -> str:
    if not 1 <= len(name) <= 255:
        raise Invalid("name", "must have 1 to 255 characters")
    return name


async def live_workspace(session: AsyncSession, organization_id: str, workspace_id: str | None) -> str:
    """The workspace named in a body (None: the default one). Raises `Invalid` when there is no such live one."""
    if workspace_id is None or workspace_id == "default":
        return await default_workspace(session, organization_id)
    row = await session.get(WorkspaceRow, workspace_id)
    if row is None or row.organization_id != organization_id:
        raise Invalid("workspace_id", "no such workspace")
    if row.archived_at is not None:
        raise Invalid("workspace_id", "workspace is archived")
    return workspace_id
