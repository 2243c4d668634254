"""Operators' endpoints for what happened: `/admin/v1/audit` and `/admin/v1/authentication_events`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from qanat.control.nouns import AuditEntry, AuthenticationEvent, Connector, OperatorEvent, Page, TrafficPoint
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


@router.get("/events")
async def list_events(
    actor: Operator,
    operations: Ops,
    page: AdminPageQuery,
    tunnel_id: IDQuery = None,
    kind: Annotated[str | None, Query(max_length=32, pattern=r"^[a-z_]+$")] = None,
) -> Page[OperatorEvent]:
    return await operations.events.list_page(actor, page, tunnel_id=tunnel_id, kinds=(kind,) if kind else ())


@router.get("/tunnels/{tunnel_id}/connectors")
async def list_connectors(tunnel_id: str, actor: Operator, operations: Ops) -> Page[Connector]:
    return Page(data=await operations.connectors.of_tunnel(actor, tunnel_id), next_page=None)


@router.get("/tunnels/{tunnel_id}/traffic")
async def list_traffic(
    tunnel_id: str, actor: Operator, operations: Ops, since: Moment | None = None, until: Moment | None = None
) -> Page[TrafficPoint]:
    """The last hour, minute by minute, unless told otherwise."""
    end = until or operations.context.now()
    start = since or (end - timedelta(hours=1)).replace(second=0, microsecond=0)
    return Page(data=await operations.events.traffic(actor, tunnel_id, start, end), next_page=None)
