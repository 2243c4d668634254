"""Operators' own endpoints for minted credentials: `/admin/v1`, outside `/v1` so that it cannot collide."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from qanat.control.errors import PermissionDenied
from qanat.control.nouns import AccessToken, APIKey, Page
from qanat.control.operations.context import Actor
from qanat.control.rest.requests import (
    AdminPageQuery,
    Body,
    Moment,
    Ops,
    Who,
    Whole,
    body_schema,
    make_actor,
    read_body,
)
from qanat.control.rest.tunnels import no_store

router = APIRouter(prefix="/admin/v1", tags=["Operator"])


async def operator_of(request: Request, who: Who) -> Actor:
    """An operator, or nobody; each call of one is counted."""
    if not who.operator:
        raise PermissionDenied("only an operator may do this")
    request.app.state.limits.count_admin_request(who.credential_id)
    return make_actor(request, who, None)


Operator = Annotated[Actor, Depends(operator_of)]


class CreateAPIKey(Body):
    name: Annotated[str, Field(min_length=1, max_length=255)]
    workspace_id: Annotated[str | None, Field(max_length=128)] = None
    expires_at: Moment | None = None
    kind: Literal["workspace", "admin"] = "workspace"


class UpdateAPIKey(Body):
    status: Literal["active", "inactive", "archived"]


class CreateTunnelsKey(Body):
    name: Annotated[str, Field(min_length=1, max_length=255)]
    workspace_id: Annotated[str | None, Field(max_length=128)] = None
    lifetime_seconds: Annotated[Whole, Field(ge=300, le=86400)] = 3600


@router.post("/api_keys", dependencies=[Depends(no_store)], openapi_extra=body_schema(CreateAPIKey))
async def create_api_key(request: Request, actor: Operator, operations: Ops) -> APIKey:
    body = await read_body(request, CreateAPIKey)
    return await operations.keys.create_api_key(actor, body.name, body.workspace_id, body.expires_at, body.kind)


@router.get("/api_keys")
async def list_api_keys(actor: Operator, operations: Ops, page: AdminPageQuery) -> Page[APIKey]:
    return await operations.keys.list_api_keys(actor, page)


@router.post("/api_keys/{key_id}", openapi_extra=body_schema(UpdateAPIKey))
async def update_api_key(key_id: str, request: Request, actor: Operator, operations: Ops) -> APIKey:
    body = await read_body(request, UpdateAPIKey)
    return await operations.keys.set_api_key_status(actor, key_id, body.status)


@router.post("/tunnels_api_keys", dependencies=[Depends(no_store)], openapi_extra=body_schema(CreateTunnelsKey))
async def create_tunnels_key(request: Request, actor: Operator, operations: Ops) -> AccessToken:
    body = await read_body(request, CreateTunnelsKey)
    lifetime = timedelta(seconds=body.lifetime_seconds)
    return await operations.keys.create_tunnels_key(actor, body.name, body.workspace_id, lifetime)


@router.get("/access_tokens")
async def list_access_tokens(
    actor: Operator, operations: Ops, page: AdminPageQuery, kind: Annotated[str | None, Query(max_length=32)] = None
) -> Page[AccessToken]:
    return await operations.keys.list_tokens(actor, kind, page)


@router.post("/access_tokens/{token_id}/revoke")
async def revoke_access_token(token_id: str, actor: Operator, operations: Ops) -> AccessToken:
    return await operations.keys.revoke_token(actor, token_id)


class RevokeAll(Body):
    service_account_id: Annotated[str, Field(max_length=128)]


@router.post("/access_tokens/revoke_all", openapi_extra=body_schema(RevokeAll))
async def revoke_all_tokens(request: Request, actor: Operator, operations: Ops) -> dict[str, int]:
    body = await read_body(request, RevokeAll)
    return {"revoked": await operations.keys.revoke_tokens_of(actor, body.service_account_id)}
