"""Admin API: workspaces and their members."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from qanat.control.nouns import Membership, MembershipDeleted, Page, Workspace, WorkspacePage
from qanat.control.operations.workspaces import OlderPageRequest
from qanat.control.rest.admin import ID, Administrator
from qanat.control.rest.requests import AdminPageQuery, Body, Empty, Flag, Limit, Ops, body_schema, read_body
from qanat.control.rest.service_accounts import WorkspaceRole

router = APIRouter(prefix="/v1/organizations/workspaces", tags=["Workspaces"])
WorkspaceName = Annotated[str, Field(min_length=1, max_length=255)]
Color = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
TagText = Annotated[str, Field(max_length=256)]


class CreateWorkspace(Body):
    name: WorkspaceName
    display_color: Color | None = None
    tags: dict[str, TagText] | None = None
    data_residency: dict[str, Any] | None = None
    """Accepted and ignored: where data lies is a question of the deployment."""


class UpdateWorkspace(Body):
    name: WorkspaceName | None = None
    display_color: Color | None = None
    tags: dict[str, TagText | None] | None = None
    data_residency: dict[str, Any] | None = None


class AddMember(Body):
    service_account_id: ID
    workspace_role: WorkspaceRole


class UpdateMember(Body):
    workspace_role: WorkspaceRole


@router.post("", openapi_extra=body_schema(CreateWorkspace))
async def create_workspace(request: Request, actor: Administrator, operations: Ops) -> Workspace:
    body = await read_body(request, CreateWorkspace)
    return await operations.workspaces.create(actor, body.name, body.display_color, body.tags or {})


@router.get("")
async def list_workspaces(
    actor: Administrator,
    operations: Ops,
    limit: Annotated[Limit, Query()] = 20,
    after_id: Annotated[str | None, Query(max_length=128)] = None,
    before_id: Annotated[str | None, Query(max_length=128)] = None,
    include_archived: Annotated[Flag, Query()] = False,
    include_default: Annotated[Flag, Query()] = False,
    ids: Annotated[list[str] | None, Query(alias="ids[]", max_length=100)] = None,
) -> WorkspacePage:
    page = OlderPageRequest(limit, after_id, before_id, include_archived, include_default, tuple(ids or ()))
    return await operations.workspaces.list_page(actor, page)


@router.get("/{workspace_id}")
async def get_workspace(workspace_id: str, actor: Administrator, operations: Ops) -> Workspace:
    return await operations.workspaces.retrieve(actor, workspace_id)


@router.post("/{workspace_id}", openapi_extra=body_schema(UpdateWorkspace))
async def update_workspace(workspace_id: str, request: Request, actor: Administrator, operations: Ops) -> Workspace:
    body = await read_body(request, UpdateWorkspace)
    return await operations.workspaces.update(actor, workspace_id, body.name, body.display_color, body.tags)


@router.post("/{workspace_id}/archive", openapi_extra=body_schema(Empty))
async def archive_workspace(workspace_id: str, request: Request, actor: Administrator, operations: Ops) -> Workspace:
    await read_body(request, Empty)
    return await operations.workspaces.archive(actor, workspace_id)


@router.get("/{workspace_id}/service_accounts")
async def list_members(
    workspace_id: str, actor: Administrator, operations: Ops, page: AdminPageQuery
) -> Page[Membership]:
    return await operations.workspaces.members(actor, workspace_id, page)


@router.post("/{workspace_id}/service_accounts", openapi_extra=body_schema(AddMember))
async def add_member(workspace_id: str, request: Request, actor: Administrator, operations: Ops) -> Membership:
    body = await read_body(request, AddMember)
    return await operations.workspaces.set_member(
        actor, workspace_id, body.service_account_id, body.workspace_role, from_body="service_account_id"
    )


@router.get("/{workspace_id}/service_accounts/{account_id}")
async def get_member(workspace_id: str, account_id: str, actor: Administrator, operations: Ops) -> Membership:
    return await operations.workspaces.member(actor, workspace_id, account_id)


@router.post("/{workspace_id}/service_accounts/{account_id}", openapi_extra=body_schema(UpdateMember))
async def update_member(
    workspace_id: str, account_id: str, request: Request, actor: Administrator, operations: Ops
) -> Membership:
    body = await read_body(request, UpdateMember)
    return await operations.workspaces.set_member(
        actor, workspace_id, account_id, body.workspace_role, from_body="", must_exist=True
    )


@router.delete("/{workspace_id}/service_accounts/{account_id}")
async def remove_member(workspace_id: str, account_id: str, actor: Administrator, operations: Ops) -> MembershipDeleted:
    return await operations.workspaces.remove_member(actor, workspace_id, account_id)
