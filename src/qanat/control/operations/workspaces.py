"""Workspaces, and which service accounts are members."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import Invalid, NotFound
from qanat.control.nouns import Membership, MembershipDeleted, Page, Workspace, WorkspacePage
from qanat.control.operations.authentication import default_workspace
from qanat.control.operations.bootstrap import DEFAULT_COLOR
from qanat.control.operations.context import Actor, Context, audit, lock_organization
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.store.tables import MembershipRow, ServiceAccountRow, WorkspaceRow
from qanat.ids import is_well_formed

RESIDENCY: dict[str, object] = {
    "workspace_geo": "us",
    "allowed_inference_geos": "unrestricted",
    "default_inference_geo": "global",
}
"""A fixed answer: where data lies is a question of the deployment."""
MAX_TAGS = 50


@dataclass(frozen=True)
class OlderPageRequest:
    """Which page of a list that pages by id."""

    limit: int = 20
    after_id: str | None = None
    before_id: str | None = None
    include_archived: bool = False
    include_default: bool = False
    ids: tuple[str, ...] = ()


class Workspaces:
    """What one can do with workspaces."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, actor: Actor, name: str, color: str | None, tags: dict[str, str]) -> Workspace:
        """A workspace."""
        context = self._context
        _check_tags(tags)
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = WorkspaceRow(
                id=context.new_id("wrkspc"),
                organization_id=actor.organization_id,
                name=name,
                display_color=color or DEFAULT_COLOR,
                tags=tags,
                created_at=context.now(),
                archived_at=None,
            )
            session.add(row)
            audit(session, context, actor, "workspace.create", row.id, workspace_id=row.id)
        return show_workspace(row)

    async def retrieve(self, actor: Actor, workspace_id: str) -> Workspace:
        """Raises `NotFound`."""
        async with self._context.database.read() as session:
            return show_workspace(await find_workspace(session, actor, workspace_id))

    async def update(
        self, actor: Actor, workspace_id: str, name: str | None, color: str | None, tags: dict[str, str | None] | None
    ) -> Workspace:
        """None leaves a value as it is; a tag of None is removed. Raises `Invalid` for an archived workspace."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_workspace(session, actor, workspace_id)
            if row.archived_at is not None:
                raise Invalid("", "workspace is archived")
            row.name = name if name is not None else row.name
            row.display_color = color if color is not None else row.display_color
            merged = row.tags | (tags or {})
            row.tags = {key: value for key, value in merged.items() if value is not None}
            _check_tags(row.tags)
            audit(session, context, actor, "workspace.update", row.id, workspace_id=row.id)
        return show_workspace(row)

    async def archive(self, actor: Actor, workspace_id: str) -> Workspace:
        """For ever; tokens of the workspace are refused from now on. Raises `Invalid` for the default one."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_workspace(session, actor, workspace_id)
            if row.id == await default_workspace(session, actor.organization_id):
                raise Invalid("", "the default workspace cannot be archived")
            if row.archived_at is None:
                row.archived_at = context.now()
                audit(session, context, actor, "workspace.archive", row.id, workspace_id=row.id)
        return show_workspace(row)

    async def list_page(self, actor: Actor, request: OlderPageRequest) -> WorkspacePage:
        """Newest first; the default workspace only when asked for."""
        query = select(WorkspaceRow).where(WorkspaceRow.organization_id == actor.organization_id)
        if not request.include_archived:
            query = query.where(WorkspaceRow.archived_at.is_(None))
        if request.ids:
            query = query.where(WorkspaceRow.id.in_(request.ids))
        async with self._context.database.read() as session:
            if not request.include_default:
                query = query.where(WorkspaceRow.id != await default_workspace(session, actor.organization_id))
            rows = list((await session.scalars(query)).all())
        rows.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        return _slice(rows, request)

    async def members(self, actor: Actor, workspace_id: str, request: PageRequest) -> Page[Membership]:
        """The explicit members, newest first."""
        query = select(MembershipRow).where(MembershipRow.workspace_id == workspace_id)
        order = (MembershipRow.created_at, MembershipRow.service_account_id)
        filters = ["members", workspace_id]
        async with self._context.database.read() as session:
            await find_workspace(session, actor, workspace_id)
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        return Page(data=[show_membership(row) for row in rows], next_page=next_page)

    async def memberships(self, actor: Actor, account_id: str, request: PageRequest) -> Page[Membership]:
        """The workspaces of a service account: the implicit one first, then newest first."""
        query = select(MembershipRow).where(MembershipRow.service_account_id == account_id)
        order = (MembershipRow.created_at, MembershipRow.workspace_id)
        filters = ["memberships", account_id]
        async with self._context.database.read() as session:
            account = await find_account(session, actor, account_id)
            if account.archived_at is not None:
                return Page(data=[], next_page=None)
            default = await default_workspace(session, actor.organization_id)
            explicit_default = await session.get(MembershipRow, (default, account_id))
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        first = [] if request.page or explicit_default else [implicit_membership(default, account_id)]
        return Page(data=[*first, *(show_membership(row) for row in rows)], next_page=next_page)

    async def member(self, actor: Actor, workspace_id: str, account_id: str) -> Membership:
        """Raises `NotFound`."""
        async with self._context.database.read() as session:
            await find_workspace(session, actor, workspace_id)
            await find_account(session, actor, account_id)
            row = await session.get(MembershipRow, (workspace_id, account_id))
            if row is not None:
                return show_membership(row)
            if workspace_id == await default_workspace(session, actor.organization_id):
                return implicit_membership(workspace_id, account_id)
        raise NotFound("workspace member")

    async def set_member(
        self, actor: Actor, workspace_id: str, account_id: str, role: str, *, from_body: str, must_exist: bool = False
    ) -> Membership:
        """Add a member, or give it another role. `from_body` names the id whose absence is a 400 and not a 404."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            workspace, account = await self._both(session, actor, workspace_id, account_id, from_body)
            if workspace.archived_at is not None:
                raise Invalid("workspace_id", "workspace is archived")
            if account.archived_at is not None:
                raise Invalid("service_account_id", "service account is archived")
            row = await session.get(MembershipRow, (workspace_id, account_id))
            if row is None:
                if must_exist:
                    raise NotFound("workspace member")
                row = MembershipRow(
                    workspace_id=workspace_id,
                    service_account_id=account_id,
                    workspace_role=role,
                    created_at=context.now(),
                    created_by_actor_id=actor.id,
                )
                session.add(row)
            row.workspace_role = role
            audit(session, context, actor, "member.set", account_id, workspace_id=workspace_id, role=role)
        return show_membership(row)

    async def _both(
        self, session: AsyncSession, actor: Actor, workspace_id: str, account_id: str, from_body: str
    ) -> tuple[WorkspaceRow, ServiceAccountRow]:
        try:
            workspace = await find_workspace(session, actor, workspace_id)
        except NotFound:
            raise _missing("workspace", from_body == "workspace_id") from None
        try:
            return workspace, await find_account(session, actor, account_id)
        except NotFound:
            raise _missing("service account", from_body == "service_account_id") from None

    async def remove_member(self, actor: Actor, workspace_id: str, account_id: str) -> MembershipDeleted:
        """Repeating, or removing the implicit membership, changes nothing."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            workspace = await find_workspace(session, actor, workspace_id)
            await find_account(session, actor, account_id)
            if workspace.archived_at is not None:
                raise Invalid("", "workspace is archived")
            mine = (MembershipRow.workspace_id == workspace_id, MembershipRow.service_account_id == account_id)
            result = await session.execute(delete(MembershipRow).where(*mine))
            if getattr(result, "rowcount", 0):
                audit(session, context, actor, "member.remove", account_id, workspace_id=workspace_id)
        return MembershipDeleted(service_account_id=account_id, workspace_id=workspace_id)


def _missing(what: str, in_body: bool) -> Exception:
    field = f"{what.replace(' ', '_')}_id"
    return Invalid(field, f"no such {what}") if in_body else NotFound(what)


def _check_tags(tags: dict[str, str]) -> None:
    if len(tags) > MAX_TAGS or any(len(key) > 128 or len(value) > 256 for key, value in tags.items()):
        raise Invalid("tags", f"at most {MAX_TAGS} tags of 128 and 256 characters")
    if any(key.startswith("anthropic") for key in tags):
        raise Invalid("tags", "keys may not begin with anthropic")


def _slice(rows: list[WorkspaceRow], request: OlderPageRequest) -> WorkspacePage:
    ids = [row.id for row in rows]
    if request.before_id is not None:
        end = ids.index(request.before_id) if request.before_id in ids else 0
        start = max(0, end - request.limit)
        shown, more = rows[start:end], start > 0
    else:
        start = (
            ids.index(request.after_id) + 1
            if request.after_id in ids
            else (0 if request.after_id is None else len(ids))
        )
        shown, more = rows[start : start + request.limit], start + request.limit < len(rows)
    data = [show_workspace(row) for row in shown]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return WorkspacePage(data=data, has_more=more, first_id=first, last_id=last)


async def find_workspace(session: AsyncSession, actor: Actor, workspace_id: str) -> WorkspaceRow:
    """Raises `NotFound`, also for another organization's."""
    row = await session.get(WorkspaceRow, workspace_id) if is_well_formed("wrkspc", workspace_id) else None
    if row is None or row.organization_id != actor.organization_id:
        raise NotFound("workspace")
    return row


async def find_account(session: AsyncSession, actor: Actor, account_id: str) -> ServiceAccountRow:
    """Raises `NotFound`, also for another organization's."""
    row = await session.get(ServiceAccountRow, account_id) if is_well_formed("svac", account_id) else None
    if row is None or row.organization_id != actor.organization_id:
        raise NotFound("service account")
    return row


def show_workspace(row: WorkspaceRow) -> Workspace:
    return Workspace(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        archived_at=row.archived_at,
        display_color=row.display_color,
        tags=row.tags,
        data_residency=RESIDENCY,
        compartment_id="",
        external_key_id=None,
    )


def show_membership(row: MembershipRow) -> Membership:
    return Membership(
        service_account_id=row.service_account_id,
        workspace_id=row.workspace_id,
        workspace_role=row.workspace_role,
        implicit=False,
        created_by_actor_id=row.created_by_actor_id,
    )


def implicit_membership(workspace_id: str, account_id: str) -> Membership:
    """What every service account is in the default workspace."""
    return Membership(
        service_account_id=account_id,
        workspace_id=workspace_id,
        workspace_role="workspace_user",
        implicit=True,
        created_by_actor_id=None,
    )
