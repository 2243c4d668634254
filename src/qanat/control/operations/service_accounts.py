"""Service accounts: identities that federated tokens act as; no secret of their own."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select

from qanat.control.errors import Invalid, PermissionDenied
from qanat.control.nouns import Page, ServiceAccount
from qanat.control.operations.context import Actor, Context, audit, lock_organization
from qanat.control.operations.names import check_free_name
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.operations.workspaces import find_account
from qanat.control.store.tables import RuleRow, ServiceAccountRow

Role = Literal["developer", "admin"]


class ServiceAccounts:
    """What one can do with service accounts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, actor: Actor, name: str, description: str | None, role: Role) -> ServiceAccount:
        """Raises `Conflict` for a name in use, `PermissionDenied` when only a person may give that role."""
        context = self._context
        _check_role(actor, role)
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            await check_free_name(session, ServiceAccountRow, actor.organization_id, name)
            now = context.now()
            row = ServiceAccountRow(
                id=context.new_id("svac"),
                organization_id=actor.organization_id,
                name=name,
                description=description or "",
                organization_role=role,
                created_at=now,
                updated_at=now,
                created_by_actor_id=actor.id,
                updated_by_actor_id=actor.id,
            )
            session.add(row)
            audit(session, context, actor, "service_account.create", row.id, name=name, role=role)
        return show(row)

    async def retrieve(self, actor: Actor, account_id: str) -> ServiceAccount:
        """Raises `NotFound`."""
        async with self._context.database.read() as session:
            return show(await find_account(session, actor, account_id))

    async def list_page(self, actor: Actor, request: PageRequest) -> Page[ServiceAccount]:
        """Newest first."""
        query = select(ServiceAccountRow).where(ServiceAccountRow.organization_id == actor.organization_id)
        if not request.include_archived:
            query = query.where(ServiceAccountRow.archived_at.is_(None))
        order = (ServiceAccountRow.created_at, ServiceAccountRow.id)
        filters = ["service_accounts", actor.organization_id, request.include_archived]
        async with self._context.database.read() as session:
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        return Page(data=[show(row) for row in rows], next_page=next_page)

    async def update(
        self, actor: Actor, account_id: str, *, description: str | None, role: Role | None
    ) -> ServiceAccount:
        """None leaves a value as it is. Raises `Invalid` for an archived account."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_account(session, actor, account_id)
            _check_role(actor, role)
            _check_role(actor, row.organization_role)
            if row.archived_at is not None:
                raise Invalid("", "service account is archived")
            row.description = row.description if description is None else description
            row.organization_role = role or row.organization_role
            row.updated_at, row.updated_by_actor_id = context.now(), actor.id
            audit(session, context, actor, "service_account.update", row.id, role=row.organization_role)
        return show(row)

    async def archive(self, actor: Actor, account_id: str) -> ServiceAccount:
        """For ever; its tokens are refused from now on. Raises `Invalid` while a live rule targets it."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_account(session, actor, account_id)
            if row.archived_at is not None:
                return show(row)
            _check_role(actor, row.organization_role)
            targets = (RuleRow.service_account_id == row.id, RuleRow.archived_at.is_(None))
            if (await session.scalars(select(RuleRow.id).where(*targets).limit(1))).first() is not None:
                raise Invalid("", "a live federation rule targets this service account; archive the rule first")
            row.archived_at, row.archived_by_actor_id = context.now(), actor.id
            audit(session, context, actor, "service_account.archive", row.id)
        return show(row)


def _check_role(actor: Actor, role: str | None) -> None:
    if role == "admin" and not actor.interactive:
        raise PermissionDenied("only a person may give or manage the role admin")


def show(row: ServiceAccountRow) -> ServiceAccount:
    return ServiceAccount.model_validate(
        {name: getattr(row, name) for name in ServiceAccount.model_fields if name != "type"}
    )
