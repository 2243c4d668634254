"""Admin API: service accounts and their workspaces."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from qanat.control.nouns import Membership, MembershipDeleted, Page, ServiceAccount
from qanat.control.rest.admin import ID, Administrator, Description, Name
from qanat.control.rest.requests import AdminPageQuery, Body, Empty, Ops, body_schema, read_body

router = APIRouter(prefix="/v1/organizations/service_accounts", tags=["Service accounts"])
WorkspaceRole = Literal["workspace_admin", "workspace_developer", "workspace_restricted_developer", "workspace_user"]


class CreateServiceAccount(Body):
    name: Name
    description: Description | None = None
    organization_role: Literal["developer", "admin"] = "developer"


class UpdateServiceAccount(Body):
    description: Description | None = None
    organization_role: Literal["developer", "admin"] | None = None


class AddToWorkspace(Body):
    workspace_id: ID
    workspace_role: WorkspaceRole


@router.post("", openapi_extra=body_schema(CreateServiceAccount))
async def create_service_account(request: Request, actor: Administrator, operations: Ops) -> ServiceAccount:
    body = await read_body(request, CreateServiceAccount)
    return await operations.service_accounts.create(actor, body.name, body.description, body.organization_role)


@router.get("")
async def list_service_accounts(actor: Administrator, operations: Ops, page: AdminPageQuery) -> Page[ServiceAccount]:
    return await operations.service_accounts.list_page(actor, page)


@router.get("/{account_id}")
async def get_service_account(account_id: str, actor: Administrator, operations: Ops) -> ServiceAccount:
    return await operations.service_accounts.retrieve(actor, account_id)


@router.post("/{account_id}", openapi_extra=body_schema(UpdateServiceAccount))
async def update_service_account(
    account_id: str, request: Request, actor: Administrator, operations: Ops
) -> ServiceAccount:
    body = await read_body(request, UpdateServiceAccount)
    # A description of null clears it; one left out stays.
    description = (body.description or "") if "description" in body.model_fields_set else None
    return await operations.service_accounts.update(
        actor, account_id, description=description, role=body.organization_role
    )


@router.post("/{account_id}/archive", openapi_extra=body_schema(Empty))
async def archive_service_account(
    account_id: str, request: Request, actor: Administrator, operations: Ops
) -> ServiceAccount:
    await read_body(request, Empty)
    return await operations.service_accounts.archive(actor, account_id)


@router.get("/{account_id}/workspaces")
async def list_memberships(
    account_id: str, actor: Administrator, operations: Ops, page: AdminPageQuery
) -> Page[Membership]:
    return await operations.workspaces.memberships(actor, account_id, page)


@router.post("/{account_id}/workspaces", openapi_extra=body_schema(AddToWorkspace))
async def add_to_workspace(account_id: str, request: Request, actor: Administrator, operations: Ops) -> Membership:
    body = await read_body(request, AddToWorkspace)
    return await operations.workspaces.set_member(
        actor, body.workspace_id, account_id, body.workspace_role, from_body="workspace_id"
    )


@router.delete("/{account_id}/workspaces/{workspace_id}")
async def remove_from_workspace(
    account_id: str, workspace_id: str, actor: Administrator, operations: Ops
) -> MembershipDeleted:
    return await operations.workspaces.remove_member(actor, workspace_id, account_id)
