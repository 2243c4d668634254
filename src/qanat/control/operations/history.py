"""What happened: the audit trail of changes, and the authentication history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from qanat.control.errors import Invalid
from qanat.control.nouns import AuditEntry, AuthenticationEvent, Page
from qanat.control.operations.context import Actor, Context
from qanat.control.operations.keys import check_operator
from qanat.control.operations.pages import PageRequest
from qanat.control.store.tables import AuditRow, AuthenticationEventRow


@dataclass(frozen=True)
class EventFilter:
    """Which authentication events."""

    rule_id: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class History:
    """Reads what was recorded. For operators only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def audit_trail(
        self, actor: Actor, request: PageRequest, *, target_id: str | None = None, workspace_id: str | None = None
    ) -> Page[AuditEntry]:
        """Changes, newest first; of one thing or one workspace when asked."""
        check_operator(actor)
        query = select(AuditRow).where(AuditRow.organization_id == actor.organization_id)
        if target_id is not None:
            query = query.where(AuditRow.target_id == target_id)
        if workspace_id is not None:
            query = query.where(AuditRow.workspace_id == workspace_id)
        if request.page is not None:
            query = query.where(AuditRow.id < read_cursor_number(request.page))
        async with self._context.database.read() as session:
            query = query.order_by(AuditRow.id.desc()).limit(request.limit + 1)
            rows = (await session.scalars(query)).all()
        shown = [show_audit(row) for row in rows[: request.limit]]
        return Page(data=shown, next_page=cursor_after(shown[-1].id) if len(rows) > request.limit else None)

    async def authentication_events(
        self, actor: Actor, request: PageRequest, wanted: EventFilter
    ) -> Page[AuthenticationEvent]:
        """Attempts to exchange an assertion, newest first."""
        check_operator(actor)
        table = AuthenticationEventRow
        query = select(table).where(table.organization_id == actor.organization_id)
        if wanted.rule_id is not None:
            query = query.where(table.rule_id == wanted.rule_id)
        if wanted.outcome is not None:
            query = query.where(table.outcome == wanted.outcome)
        if wanted.since is not None:
            query = query.where(table.time >= wanted.since)
        if wanted.until is not None:
            query = query.where(table.time < wanted.until)
        if request.page is not None:
            query = query.where(table.id < read_cursor_number(request.page))
        async with self._context.database.read() as session:
            rows = (await session.scalars(query.order_by(table.id.desc()).limit(request.limit + 1))).all()
        shown = [show_event(row) for row in rows[: request.limit]]
        return Page(data=shown, next_page=cursor_after(shown[-1].id) if len(rows) > request.limit else None)


def cursor_after(id: int) -> str:
    return f"page_{id}"


def read_cursor_number(cursor: str) -> int:
    digits = cursor.removeprefix("page_")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise Invalid("page", "invalid cursor")
    return int(digits)


def show_audit(row: AuditRow) -> AuditEntry:
    return AuditEntry.model_validate({name: getattr(row, name) for name in AuditEntry.model_fields if name != "type"})


def show_event(row: AuthenticationEventRow) -> AuthenticationEvent:
    fields = (name for name in AuthenticationEvent.model_fields if name != "type")
    return AuthenticationEvent.model_validate({name: getattr(row, name) for name in fields})
