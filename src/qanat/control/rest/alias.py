"""The deprecated surface, `/v1/organizations/tunnels`: another beta value, another scope, the same records.

No create; tunnels show their workspace; certificate lists come in one piece.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from qanat.control.errors import Invalid
from qanat.control.nouns import Certificate, Page, PlacedTunnel, TunnelToken
from qanat.control.operations.authentication import ORG_MANAGE_TUNNELS
from qanat.control.operations.context import Actor
from qanat.control.rest.requests import (
    Empty,
    Flag,
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
from qanat.control.rest.tunnels import CreateCertificate, RotateToken, no_store
from qanat.ids import is_well_formed

BETA = "mcp-tunnels-2026-05-19"


async def deprecated(response: Response) -> None:
    response.headers["deprecation"] = "true"
    response.headers["link"] = '</v1/tunnels>; rel="successor-version"'


router = APIRouter(
    prefix="/v1/organizations/tunnels",
    tags=["Tunnels (deprecated)"],
    deprecated=True,
    dependencies=[Depends(deprecated)],
)


async def actor_of(request: Request, who: Who) -> Actor:
    """Who may manage the tunnels of the whole organization."""
    require_version(request)
    require_beta(request, BETA)
    require_scope(who, ORG_MANAGE_TUNNELS)
    request.app.state.limits.count_request(who.credential_id)
    return make_actor(request, who, None)


Tunneler = Annotated[Actor, Depends(actor_of)]


@router.get("")
async def list_placed_tunnels(
    actor: Tunneler, operations: Ops, page: PageQuery, workspace_id: Annotated[str | None, Query(max_length=128)] = None
) -> Page[PlacedTunnel]:
    if workspace_id is not None and not is_well_formed("wrkspc", workspace_id):
        raise Invalid("workspace_id", "must be a workspace id such as wrkspc_01…")
    return await operations.tunnels.list_placed(actor, workspace_id, page)


@router.get("/{tunnel_id}")
async def get_placed_tunnel(tunnel_id: str, actor: Tunneler, operations: Ops) -> PlacedTunnel:
    return await operations.tunnels.place(actor, tunnel_id)


@router.post("/{tunnel_id}/archive", openapi_extra=body_schema(Empty))
async def archive_placed_tunnel(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> PlacedTunnel:
    await read_body(request, Empty)
    await operations.tunnels.archive(actor, tunnel_id)
    return await operations.tunnels.place(actor, tunnel_id)


@router.post("/{tunnel_id}/reveal_token", dependencies=[Depends(no_store)], openapi_extra=body_schema(Empty))
async def reveal_placed_token(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> TunnelToken:
    await read_body(request, Empty)
    request.app.state.limits.count_token_read(actor.credential_id)
    return await operations.tunnels.reveal_token(actor, tunnel_id)


@router.post("/{tunnel_id}/rotate_token", dependencies=[Depends(no_store)], openapi_extra=body_schema(RotateToken))
async def rotate_placed_token(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> TunnelToken:
    body = await read_body(request, RotateToken)
    request.app.state.limits.count_token_read(actor.credential_id)
    return await operations.tunnels.rotate_token(actor, tunnel_id, body.reason)


@router.post("/{tunnel_id}/certificates", openapi_extra=body_schema(CreateCertificate))
async def create_placed_certificate(tunnel_id: str, request: Request, actor: Tunneler, operations: Ops) -> Certificate:
    body = await read_body(request, CreateCertificate)
    return await operations.certificates.create(actor, tunnel_id, body.ca_certificate_pem)


@router.get("/{tunnel_id}/certificates")
async def list_placed_certificates(
    tunnel_id: str, actor: Tunneler, operations: Ops, include_archived: Annotated[Flag, Query()] = False
) -> Page[Certificate]:
    return await operations.certificates.list_all(actor, tunnel_id, include_archived=include_archived)


@router.get("/{tunnel_id}/certificates/{certificate_id}")
async def get_placed_certificate(tunnel_id: str, certificate_id: str, actor: Tunneler, operations: Ops) -> Certificate:
    return await operations.certificates.retrieve(actor, tunnel_id, certificate_id)


@router.post("/{tunnel_id}/certificates/{certificate_id}/archive", openapi_extra=body_schema(Empty))
async def archive_placed_certificate(
    tunnel_id: str, certificate_id: str, request: Request, actor: Tunneler, operations: Ops
) -> Certificate:
    await read_body(request, Empty)
    return await operations.certificates.archive(actor, tunnel_id, certificate_id)
