"""The Tunnels API: `/v1/tunnels`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from qanat.control.nouns import Certificate, Page, Tunnel, TunnelToken
from qanat.control.operations.authentication import MANAGE_TUNNELS
from qanat.control.operations.context import Actor
from qanat.control.operations.tunnels import MAX_NAME, MAX_REASON
from qanat.control.rest.requests import (
    Body,
    Empty,
    Ops,
    PageQuery,
    Who,
    body_schema,
    make_actor,
    read_body,
    require_beta,
    require_scope,
    require_version,
)

BETA = "mcp-tunnels-2026-06-22"
router = APIRouter(prefix="/v1/tunnels", tags=["Tunnels"])


class CreateTunnel(Body):
    display_name: Annotated[str | None, Field(min_length=1, max_length=MAX_NAME)] = None


class RotateToken(Body):
    reason: Annotated[str | None, Field(max_length=MAX_REASON)] = None


class CreateCertificate(Body):
    ca_certificate_pem: object = None
    """Judged by the operation, in one fixed order of rules."""


async def actor_of(request: Request, who: Who, operations: Ops) -> Actor:
    """Who may manage the tunnels of which workspace."""
    require_version(request)
    require_beta(request, BETA)
    if who.kind == "api_key" or who.kind == "admin_key":
        require_scope(who, MANAGE_TUNNELS)
    workspace_id = await operations.authentication.choose_workspace(who, request.headers.get("anthropic-workspace-id"))
    actor = make_actor(request, who, workspace_id)
    require_scope(who, MANAGE_TUNNELS)
    request.app.state.limits.count_request(who.credential_id)
    return actor


async def no_store(response: Response) -> None:
    response.headers["cache-control"] = "no-store"


Tunneler = Annotated[Actor, Depends(actor_of)]


@router.post("", openapi_extra=body_schema(CreateTunnel))
async def create_tunnel(request: Request, actor: Tunneler, operations: Ops) -> Tunnel:
    body = await read_body(request, CreateTunnel)
    return await operations.tunnels.create(actor, body.display_name)


@router.get("")
async def list_tunnels(actor: Tunneler, operations: Ops, page: PageQuery) -> Page[Tunnel]:
    return await operations.tunnels.list_page(actor, page)


@router.get("/{tunnel_id}")
async def get_tunnel(tunnel_id: str, actor: Tunneler, operations: Ops) -> Tunnel:
    return await operations.tunnels.retrieve(actor, tunnel_id)


@router.post("/{tunnel_id}/archive", openapi_extra=body_schema(Empty))
async def archive_tunnel(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> Tunnel:
    await read_body(request, Empty)
    return await operations.tunnels.archive(actor, tunnel_id)


@router.post("/{tunnel_id}/reveal_token", dependencies=[Depends(no_store)], openapi_extra=body_schema(Empty))
async def reveal_token(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> TunnelToken:
    await read_body(request, Empty)
    request.app.state.limits.count_token_read(actor.credential_id)
    return await operations.tunnels.reveal_token(actor, tunnel_id)


@router.post("/{tunnel_id}/rotate_token", dependencies=[Depends(no_store)], openapi_extra=body_schema(RotateToken))
async def rotate_token(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> TunnelToken:
    body = await read_body(request, RotateToken)
    request.app.state.limits.count_token_read(actor.credential_id)
    return await operations.tunnels.rotate_token(actor, tunnel_id, body.reason)


@router.post("/{tunnel_id}/certificates", openapi_extra=body_schema(CreateCertificate))
async def create_certificate(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> Certificate:
    body = await read_body(request, CreateCertificate)
    return await operations.certificates.create(actor, tunnel_id, body.ca_certificate_pem)


@router.get("/{tunnel_id}/certificates")
async def list_certificates(tunnel_id: str, actor: Tunneler, operations: Ops, page: PageQuery) -> Page[Certificate]:
    return await operations.certificates.list_page(actor, tunnel_id, page)


@router.get("/{tunnel_id}/certificates/{certificate_id}")
async def get_certificate(tunnel_id: str, certificate_id: str, actor: Tunneler, operations: Ops) -> Certificate:
    return await operations.certificates.retrieve(actor, tunnel_id, certificate_id)


@router.post("/{tunnel_id}/certificates/{certificate_id}/archive", openapi_extra=body_schema(Empty))
async def archive_certificate(
    tunnel_id: str, certificate_id: str, request: Request, actor: Tunneler, operations: Ops
) -> Certificate:
    await read_body(request, Empty)
    return await operations.certificates.archive(actor, tunnel_id, certificate_id)
