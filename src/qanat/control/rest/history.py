"""Operators' endpoints for what happened: `/admin/v1/audit` and `/admin/v1/authentication_events`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from qanat.control.nouns import AuditEntry, AuthenticationEvent, Page
from qanat.control.operations.history import EventFilter
from qanat.control.rest.keys import Operator
from qanat.control.rest.requests import AdminPageQuery, Moment, Ops

router = APIRouter(prefix="/admin/v1", tags=["Operator"])
IDQuery = Annotated[str | None, Query(max_length=128, pattern=r"^[0-9A-Za-z_-]+$")]


@router.get("/audit")
async def list_audit(
    actor: Operator, operations: Ops, page: AdminPageQuery, target_id: IDQuery = None, workspace_id: IDQuery = None
) -> Page[AuditEntry]:
    return await operations.history.audit_trail(actor, page, target_id=target_id, workspace_id=workspace_id)


@router.get("/authentication_events")
async def list_authentication_events(
    actor: Operator,
    operations: Ops,
    page: AdminPageQuery,
    rule_id: IDQuery = None,
    outcome: Literal["success", "denied", "error"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Page[AuthenticationEvent]:
    return await operations.history.authentication_events(actor, page, EventFilter(rule_id, outcome, since, until))
