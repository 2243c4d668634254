"""Admin API: federation issuers and rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from qanat.control.nouns import Issuer, Page, Rule, RuleWorkspace, RuleWorkspaceDeleted
from qanat.control.operations.issuers import MAX_KEYS, MAX_LIFETIME, IssuerChange
from qanat.control.operations.rules import MAX_LIFETIME as MAX_TOKEN_LIFETIME
from qanat.control.operations.rules import MIN_LIFETIME, RuleChange
from qanat.control.rest.admin import ID, Administrator, Description, Name
from qanat.control.rest.requests import AdminPageQuery, Body, Empty, Ops, Whole, body_schema, read_body

issuers = APIRouter(prefix="/v1/organizations/federation_issuers", tags=["Federation issuers"])
rules = APIRouter(prefix="/v1/organizations/federation_rules", tags=["Federation rules"])
URL = Annotated[str, Field(min_length=1, max_length=2048)]
PEM = Annotated[str, Field(min_length=1, max_length=16384)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]


class Discovery(Body):
    type: Literal["discovery"]
    discovery_base: URL | None = None
    ca_cert_pem: PEM | None = None


class ExplicitURL(Body):
    type: Literal["explicit_url"]
    url: URL
    ca_cert_pem: PEM | None = None


class Inline(Body):
    type: Literal["inline"]
    keys: Annotated[list[dict[str, Any]], Field(max_length=MAX_KEYS)]


JWKS = Annotated[Discovery | ExplicitURL | Inline, Field(discriminator="type")]
Seconds = Annotated[Whole, Field(ge=1, le=MAX_LIFETIME)]


class CreateIssuer(Body):
    name: Name
    issuer_url: URL
    jwks: JWKS | None = None
    check_jti: bool | None = None
    max_jwt_lifetime_seconds: Seconds | None = None


class UpdateIssuer(Body):
    name: Name | None = None
    issuer_url: URL | None = None
    jwks: JWKS | None = None
    check_jti: bool | None = None
    max_jwt_lifetime_seconds: Seconds | None = None
    jwks_polling_disabled: Literal[False] | None = None


class MatchBody(Body):
    subject_prefix: Text | None = None
    audience: Text | None = None
    claims: dict[str, str] | None = None
    condition: Annotated[str, Field(max_length=8192)] | None = None


class TargetBody(Body):
    type: Literal["service_account"]
    service_account_id: ID
    service_account_name: str | None = None


class RuleBody(Body):
    description: Description | None = None
    applies_to_all_workspaces: bool | None = None
    token_lifetime_seconds: Annotated[Whole, Field(ge=MIN_LIFETIME, le=MAX_TOKEN_LIFETIME)] | None = None
    workspace_id: ID | None = None
    attributes: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class CreateRule(RuleBody):
    name: Name
    issuer_id: ID
    match: MatchBody
    target: TargetBody
    oauth_scope: Text


class UpdateRule(RuleBody):
    name: Name | None = None
    match: MatchBody | None = None
    target: TargetBody | None = None
    oauth_scope: Text | None = None


class AddRuleWorkspace(Body):
    workspace_id: ID


def issuer_change(body: CreateIssuer | UpdateIssuer) -> IssuerChange:
    return IssuerChange(
        name=body.name,
        issuer_url=body.issuer_url,
        jwks=None if body.jwks is None else body.jwks.model_dump(exclude_none=True),
        check_jti=body.check_jti,
        max_jwt_lifetime_seconds=body.max_jwt_lifetime_seconds,
        resume_polling=isinstance(body, UpdateIssuer) and body.jwks_polling_disabled is False,
    )


def rule_change(body: CreateRule | UpdateRule) -> RuleChange:
    described = "description" in body.model_fields_set
    return RuleChange(
        name=body.name,
        description=(body.description or "") if described else None,
        issuer_id=body.issuer_id if isinstance(body, CreateRule) else None,
        match=None if body.match is None else body.match.model_dump(exclude_none=True),
        service_account_id=None if body.target is None else body.target.service_account_id,
        oauth_scope=body.oauth_scope,
        token_lifetime_seconds=body.token_lifetime_seconds,
        applies_to_all_workspaces=body.applies_to_all_workspaces,
        workspace_id=body.workspace_id,
    )


@issuers.post("", openapi_extra=body_schema(CreateIssuer))
async def create_issuer(request: Request, actor: Administrator, operations: Ops) -> Issuer:
    return await operations.issuers.create(actor, issuer_change(await read_body(request, CreateIssuer)))


@issuers.get("")
async def list_issuers(actor: Administrator, operations: Ops, page: AdminPageQuery) -> Page[Issuer]:
    return await operations.issuers.list_page(actor, page)


@issuers.get("/{issuer_id}")
async def get_issuer(issuer_id: str, actor: Administrator, operations: Ops) -> Issuer:
    return await operations.issuers.retrieve(actor, issuer_id)


@issuers.post("/{issuer_id}", openapi_extra=body_schema(UpdateIssuer))
async def update_issuer(issuer_id: str, request: Request, actor: Administrator, operations: Ops) -> Issuer:
    return await operations.issuers.update(actor, issuer_id, issuer_change(await read_body(request, UpdateIssuer)))


@issuers.post("/{issuer_id}/archive", openapi_extra=body_schema(Empty))
async def archive_issuer(issuer_id: str, request: Request, actor: Administrator, operations: Ops) -> Issuer:
    await read_body(request, Empty)
    return await operations.issuers.archive(actor, issuer_id)


@rules.post("", openapi_extra=body_schema(CreateRule))
async def create_rule(request: Request, actor: Administrator, operations: Ops) -> Rule:
    return await operations.rules.create(actor, rule_change(await read_body(request, CreateRule)))


@rules.get("")
async def list_rules(
    actor: Administrator,
    operations: Ops,
    page: AdminPageQuery,
    issuer_id: Annotated[str | None, Query(max_length=128)] = None,
) -> Page[Rule]:
    return await operations.rules.list_page(actor, issuer_id, page)


@rules.get("/{rule_id}")
async def get_rule(rule_id: str, actor: Administrator, operations: Ops) -> Rule:
    return await operations.rules.retrieve(actor, rule_id)


@rules.post("/{rule_id}", openapi_extra=body_schema(UpdateRule))
async def update_rule(rule_id: str, request: Request, actor: Administrator, operations: Ops) -> Rule:
    return await operations.rules.update(actor, rule_id, rule_change(await read_body(request, UpdateRule)))


@rules.post("/{rule_id}/archive", openapi_extra=body_schema(Empty))
async def archive_rule(rule_id: str, request: Request, actor: Administrator, operations: Ops) -> Rule:
    await read_body(request, Empty)
    return await operations.rules.archive(actor, rule_id)


@rules.get("/{rule_id}/workspaces")
async def list_rule_workspaces(rule_id: str, actor: Administrator, operations: Ops) -> Page[RuleWorkspace]:
    return await operations.rules.workspaces(actor, rule_id)


@rules.post("/{rule_id}/workspaces", openapi_extra=body_schema(AddRuleWorkspace))
async def add_rule_workspace(rule_id: str, request: Request, actor: Administrator, operations: Ops) -> RuleWorkspace:
    body = await read_body(request, AddRuleWorkspace)
    return await operations.rules.add_workspace(actor, rule_id, body.workspace_id)


@rules.delete("/{rule_id}/workspaces/{workspace_id}")
async def remove_rule_workspace(
    rule_id: str, workspace_id: str, actor: Administrator, operations: Ops
) -> RuleWorkspaceDeleted:
    return await operations.rules.remove_workspace(actor, rule_id, workspace_id)
