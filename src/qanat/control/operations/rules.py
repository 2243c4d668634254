"""Federation rules: which identity tokens become which service account, where, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.conditions import Conditions
from qanat.control.errors import Invalid, NotFound, PermissionDenied
from qanat.control.nouns import Match, Page, Rule, RuleWorkspace, RuleWorkspaceDeleted, Target
from qanat.control.operations.authentication import DEVELOPER, INFERENCE, ORG_ADMIN, SCOPES
from qanat.control.operations.context import Actor, Context, audit, lock_organization
from qanat.control.operations.names import check_free_name
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.operations.workspaces import find_workspace
from qanat.control.store.database import insert_new
from qanat.control.store.tables import IssuerRow, RuleRow, RuleWorkspaceRow, ServiceAccountRow, WorkspaceRow
from qanat.control.tenants import check_pinned
from qanat.ids import is_well_formed

MIN_LIFETIME, DEFAULT_LIFETIME, MAX_LIFETIME = 60, 3600, 86400


@dataclass(frozen=True)
class RuleChange:
    """Values of a rule; None leaves one as it is (or takes the default)."""

    name: str | None = None
    description: str | None = None
    issuer_id: str | None = None
    match: dict[str, Any] | None = None
    service_account_id: str | None = None
    oauth_scope: str | None = None
    token_lifetime_seconds: int | None = None
    applies_to_all_workspaces: bool | None = None
    workspace_id: str | None = None


class Rules:
    """What one can do with rules."""

    def __init__(self, context: Context, conditions: Conditions) -> None:
        self._context, self._conditions = context, conditions

    async def create(self, actor: Actor, change: RuleChange) -> Rule:
        """Raises `Conflict` for a name in use, `Invalid`, `PermissionDenied` for a scope only a person may give."""
        context = self._context
        assert change.name is not None
        assert change.issuer_id is not None
        await self._check_match(change.match or {})
        if change.workspace_id is None and not change.applies_to_all_workspaces:
            raise Invalid("workspace_id", "is required unless applies_to_all_workspaces is true")
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            issuer = await session.get(IssuerRow, change.issuer_id)
            if issuer is None or issuer.organization_id != actor.organization_id or issuer.archived_at is not None:
                raise Invalid("issuer_id", "no such live issuer")
            await check_free_name(session, RuleRow, actor.organization_id, change.name)
            now = context.now()
            row = RuleRow(
                id=context.new_id("fdrl"),
                organization_id=actor.organization_id,
                name=change.name,
                description=change.description or "",
                issuer_id=issuer.id,
                token_lifetime_seconds=change.token_lifetime_seconds or DEFAULT_LIFETIME,
                applies_to_all_workspaces=bool(change.applies_to_all_workspaces),
                created_at=now,
                updated_at=now,
                created_by_actor_id=actor.id,
                updated_by_actor_id=actor.id,
            )
            await self._apply(session, actor, row, issuer, change)
            session.add(row)
            await session.flush()
            if change.workspace_id is not None:
                await self._enable(session, actor, row, change.workspace_id)
            audit(session, context, actor, "rule.create", row.id, name=row.name, scope=row.oauth_scope)
            return await show(session, row)

    async def retrieve(self, actor: Actor, rule_id: str) -> Rule:
        """Raises `NotFound`."""
        async with self._context.database.read() as session:
            return await show(session, await find_rule(session, actor, rule_id))

    async def list_page(self, actor: Actor, issuer_id: str | None, request: PageRequest) -> Page[Rule]:
        """Newest first."""
        query = select(RuleRow).where(RuleRow.organization_id == actor.organization_id)
        if issuer_id is not None:
            query = query.where(RuleRow.issuer_id == issuer_id)
        if not request.include_archived:
            query = query.where(RuleRow.archived_at.is_(None))
        filters = ["rules", actor.organization_id, issuer_id, request.include_archived]
        order = (RuleRow.created_at, RuleRow.id)
        async with self._context.database.read() as session:
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
            return Page(data=[await show(session, row) for row in rows], next_page=next_page)

    async def update(self, actor: Actor, rule_id: str, change: RuleChange) -> Rule:
        """Raises `Invalid` for an archived rule, or one that would be enabled nowhere."""
        context = self._context
        if change.match is not None:
            await self._check_match(change.match)
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_rule(session, actor, rule_id)
            check_scopes(actor, row.oauth_scope)
            if row.archived_at is not None:
                raise Invalid("", "rule is archived")
            issuer = await session.get_one(IssuerRow, row.issuer_id)
            if change.name is not None and change.name != row.name:
                await check_free_name(session, RuleRow, actor.organization_id, change.name)
                row.name = change.name
            row.description = row.description if change.description is None else change.description
            row.token_lifetime_seconds = change.token_lifetime_seconds or row.token_lifetime_seconds
            await self._apply(session, actor, row, issuer, change)
            await self._apply_workspaces(session, actor, row, change)
            row.updated_at, row.updated_by_actor_id = context.now(), actor.id
            audit(session, context, actor, "rule.update", row.id, scope=row.oauth_scope)
            await session.flush()
            return await show(session, row)

    async def _apply(
        self, session: AsyncSession, actor: Actor, row: RuleRow, issuer: IssuerRow, change: RuleChange
    ) -> None:
        """Match, target and scope: each is checked against the others, whichever of them changes."""
        row.match = change.match if change.match is not None else row.match
        row.service_account_id = change.service_account_id or row.service_account_id
        row.oauth_scope = change.oauth_scope or row.oauth_scope
        check_scopes(actor, row.oauth_scope)
        check_pinned(issuer.issuer_url, row.match, "match")
        account = await session.get(ServiceAccountRow, row.service_account_id)
        if account is None or account.organization_id != row.organization_id or account.archived_at is not None:
            raise Invalid("target.service_account_id", "no such live service account")
        if ORG_ADMIN in row.oauth_scope.split() and account.organization_role != "admin":
            raise Invalid("oauth_scope", "org:admin needs a service account with the role admin")

    async def _apply_workspaces(self, session: AsyncSession, actor: Actor, row: RuleRow, change: RuleChange) -> None:
        enabled = await enabled_workspaces(session, row.id)
        if change.workspace_id is not None:
            if len(enabled) > 1:
                raise Invalid("workspace_id", "the rule is enabled for several workspaces; add and remove them singly")
            await session.execute(delete(RuleWorkspaceRow).where(RuleWorkspaceRow.rule_id == row.id))
            await self._enable(session, actor, row, change.workspace_id)
            enabled = [change.workspace_id]
        if change.applies_to_all_workspaces is not None:
            if not change.applies_to_all_workspaces and not enabled:
                raise Invalid("applies_to_all_workspaces", "no workspace would remain enabled")
            row.applies_to_all_workspaces = change.applies_to_all_workspaces

    async def archive(self, actor: Actor, rule_id: str) -> Rule:
        """For ever: no more exchanges. Tokens given out live until they expire."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_rule(session, actor, rule_id)
            if row.archived_at is None:
                check_scopes(actor, row.oauth_scope)
                row.archived_at, row.archived_by_actor_id = context.now(), actor.id
                await session.execute(delete(RuleWorkspaceRow).where(RuleWorkspaceRow.rule_id == row.id))
                audit(session, context, actor, "rule.archive", row.id)
            return await show(session, row)

    async def workspaces(self, actor: Actor, rule_id: str) -> Page[RuleWorkspace]:
        """Where the rule is enabled, all of it, newest first."""
        query = (
            select(RuleWorkspaceRow, WorkspaceRow.name)
            .join(WorkspaceRow, WorkspaceRow.id == RuleWorkspaceRow.workspace_id)
            .where(RuleWorkspaceRow.rule_id == rule_id)
            .order_by(RuleWorkspaceRow.created_at.desc(), RuleWorkspaceRow.workspace_id.desc())
        )
        async with self._context.database.read() as session:
            await find_rule(session, actor, rule_id)
            rows = (await session.execute(query)).all()
        return Page(data=[show_workspace(row, name) for row, name in rows], next_page=None)

    async def add_workspace(self, actor: Actor, rule_id: str, workspace_id: str) -> RuleWorkspace:
        """Repeating changes nothing."""
        async with self._context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_rule(session, actor, rule_id)
            check_scopes(actor, row.oauth_scope)
            if row.archived_at is not None:
                raise Invalid("", "rule is archived")
            await self._enable(session, actor, row, workspace_id)
            enabled = await session.get_one(RuleWorkspaceRow, (row.id, workspace_id))
            audit(session, self._context, actor, "rule.add_workspace", row.id, workspace_id=workspace_id)
        return show_workspace(enabled, None)

    async def remove_workspace(self, actor: Actor, rule_id: str, workspace_id: str) -> RuleWorkspaceDeleted:
        """Repeating changes nothing."""
        async with self._context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_rule(session, actor, rule_id)
            check_scopes(actor, row.oauth_scope)
            await find_workspace(session, actor, workspace_id)
            mine = (RuleWorkspaceRow.rule_id == row.id, RuleWorkspaceRow.workspace_id == workspace_id)
            result = await session.execute(delete(RuleWorkspaceRow).where(*mine))
            if getattr(result, "rowcount", 0):
                audit(session, self._context, actor, "rule.remove_workspace", row.id, workspace_id=workspace_id)
        return RuleWorkspaceDeleted(federation_rule_id=rule_id, workspace_id=workspace_id)

    async def _enable(self, session: AsyncSession, actor: Actor, row: RuleRow, workspace_id: str) -> None:
        try:
            workspace = await find_workspace(session, actor, workspace_id)
        except NotFound:
            raise Invalid("workspace_id", "no such workspace") from None
        if workspace.archived_at is not None:
            raise Invalid("workspace_id", "workspace is archived")
        values = {"created_at": self._context.now(), "created_by_actor_id": actor.id}
        await insert_new(session, RuleWorkspaceRow, rule_id=row.id, workspace_id=workspace_id, **values)

    async def _check_match(self, match: dict[str, Any]) -> None:
        prefix, claims, condition = match.get("subject_prefix"), match.get("claims"), match.get("condition")
        if prefix in (None, "*") and not claims and condition is None:
            raise Invalid("match", "needs a subject_prefix (other than *), claims, or a condition")
        if condition is not None:
            await self._conditions.check(condition)


def check_scopes(actor: Actor, scope: str) -> None:
    """Raises `Invalid` for an unknown scope, `PermissionDenied` for one only a person may give."""
    scopes = set(scope.split())
    if not scopes or scopes - SCOPES:
        raise Invalid("oauth_scope", f"must be one or more of {', '.join(sorted(SCOPES))}")
    if not actor.interactive and scopes - {DEVELOPER, INFERENCE}:
        raise PermissionDenied("only a person may manage a rule with this scope")


async def find_rule(session: AsyncSession, actor: Actor, rule_id: str) -> RuleRow:
    """Raises `NotFound`, also for another organization's."""
    row = await session.get(RuleRow, rule_id) if is_well_formed("fdrl", rule_id) else None
    if row is None or row.organization_id != actor.organization_id:
        raise NotFound("federation rule")
    return row


async def enabled_workspaces(session: AsyncSession, rule_id: str) -> list[str]:
    """Where a rule is enabled by name, newest first."""
    order = (RuleWorkspaceRow.created_at.desc(), RuleWorkspaceRow.workspace_id.desc())
    query = select(RuleWorkspaceRow.workspace_id).where(RuleWorkspaceRow.rule_id == rule_id).order_by(*order)
    return list((await session.scalars(query)).all())


async def show(session: AsyncSession, row: RuleRow) -> Rule:
    issuer = await session.get_one(IssuerRow, row.issuer_id)
    account = await session.get_one(ServiceAccountRow, row.service_account_id)
    made = {"type", "issuer_name", "match", "target", "workspace_ids", "workspace_id", "attributes"}
    values: dict[str, Any] = {name: getattr(row, name) for name in Rule.model_fields if name not in made}
    return Rule(
        **values,
        issuer_name=issuer.name,
        match=Match(**row.match),
        target=Target(service_account_id=account.id, service_account_name=account.name),
        workspace_ids=await enabled_workspaces(session, row.id),
    )


def show_workspace(row: RuleWorkspaceRow, name: str | None) -> RuleWorkspace:
    return RuleWorkspace(
        federation_rule_id=row.rule_id,
        workspace_id=row.workspace_id,
        workspace_name=name,
        created_at=row.created_at,
        created_by_actor_id=row.created_by_actor_id,
    )
