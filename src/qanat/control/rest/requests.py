"""Reading requests: strict bodies, query words, required headers, and the credential.

Official SDKs of three generations send the same things in different places; the rules here take them all.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from qanat.api.credential import presented_in
from qanat.control.errors import AuthenticationFailed, Invalid, PermissionDenied, UnsupportedMediaType
from qanat.control.operations import Operations
from qanat.control.operations.authentication import Identity
from qanat.control.operations.context import Actor
from qanat.control.operations.pages import DEFAULT_LIMIT, PageRequest

VERSIONS = ("2023-06-01", "2026-10-21")
MAX_DEPTH = 32
LAST = datetime.max.replace(tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A request body: unknown fields are refused, types are not bent into one another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Empty(Body):
    """No body, or `{}`."""


async def read_body(request: Request, model: type[B]) -> B:
    """The JSON body as `model`; an empty one equals `{}`. Raises `Invalid`, `UnsupportedMediaType`, `TooLarge`."""
    raw = await request.body()
    if raw and not is_json(request.headers.get("content-type", "")):
        raise UnsupportedMediaType
    return check_body(parse_json(raw) if raw else {}, model)


def is_json(content_type: str) -> bool:
    return content_type.split(";")[0].strip().lower() == "application/json"


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises `Invalid` for anything else, and for what no database column can hold."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Invalid("", "request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise Invalid("", "request body must be a JSON object")
    _check_text(value, MAX_DEPTH)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_text(value: object, depth: int) -> None:
    if depth == 0:
        raise Invalid("", "request body is nested too deeply")
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise Invalid("", "request body holds text that is not valid Unicode")
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        _check_text(key, depth)
        _check_text(child, depth - 1)


def check_body(value: dict[str, Any], model: type[B]) -> B:
    """Raises `Invalid` naming the first wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_field(error) from None


def invalid_field(error: ValidationError) -> Invalid:
    problem = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return Invalid(field, "unknown field")
    if problem["type"] == "missing":
        return Invalid(field, "field is required")
    return Invalid(field, str(problem["msg"]).removeprefix("Value error, ").lower())


def _to_bool(value: object) -> object:
    words = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, str):
        if value not in words:
            raise ValueError("must be true or false")
        return words[value]
    return value


Flag = Annotated[bool, BeforeValidator(_to_bool), WithJsonSchema({"type": "boolean"})]


def _to_limit(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 6):
        raise ValueError("must be a whole number")
    return value


def _limit(most: int) -> WithJsonSchema:
    # What stands behind a validator of our own, the framework no longer describes.
    return WithJsonSchema({"type": "integer", "minimum": 1, "maximum": most, "default": DEFAULT_LIMIT})


Limit = Annotated[int, BeforeValidator(_to_limit), Field(ge=1, le=1000), _limit(1000)]
AdminLimit = Annotated[int, BeforeValidator(_to_limit), Field(ge=1, le=100), _limit(100)]


def _to_whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _to_moment(value: object) -> object:
    """RFC 3339 with an offset; numbers, which some take for seconds since 1970, are not."""
    if isinstance(value, str):
        if not _RFC3339.fullmatch(value):
            raise ValueError("must be a time such as 2027-01-01T00:00:00Z")
        moment = datetime.fromisoformat(value.upper())
        if moment.year < 1970 or moment > LAST:  # beyond the calendar's ends in UTC: these cannot be written out
            raise ValueError("must be a time from 1970 to 9999")
        return moment
    return value if isinstance(value, datetime) else str(value)


Moment = Annotated[datetime, BeforeValidator(_to_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
Whole = Annotated[int, BeforeValidator(_to_whole)]
"""A whole number; JSON does not tell 5 from 5.0."""


async def page_request(
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    page: Annotated[str | None, Query(max_length=1024)] = None,
    include_archived: Annotated[Flag, Query()] = False,
) -> PageRequest:
    """The query of a list of up to 1,000 a page."""
    return PageRequest(limit, page, include_archived)


async def admin_page_request(
    limit: Annotated[AdminLimit, Query()] = DEFAULT_LIMIT,
    page: Annotated[str | None, Query(max_length=1024)] = None,
    include_archived: Annotated[Flag, Query()] = False,
) -> PageRequest:
    """The query of a list of up to 100 a page."""
    return PageRequest(limit, page, include_archived)


PageQuery = Annotated[PageRequest, Depends(page_request)]
AdminPageQuery = Annotated[PageRequest, Depends(admin_page_request)]


async def operations_of(request: Request) -> Operations:
    operations = request.app.state.operations
    assert isinstance(operations, Operations)
    return operations


Ops = Annotated[Operations, Depends(operations_of)]


def presented_credential(request: Request) -> str:
    """The credential, from either header. Raises `AuthenticationFailed` when there is none."""
    credential = presented_in(request.headers)
    if credential is None:
        raise AuthenticationFailed
    return credential


async def identify(request: Request, operations: Ops) -> Identity:
    """Who asks; the answer's headers then name the organization."""
    identity = await operations.authentication.identify(presented_credential(request))
    request.state.actor_id = identity.subject
    request.state.headers["anthropic-organization-id"] = identity.organization_id
    return identity


Who = Annotated[Identity, Depends(identify)]


def require_version(request: Request) -> None:
    """Raises `Invalid` without a known `anthropic-version`."""
    version = request.headers.get("anthropic-version")
    if version not in VERSIONS:
        what = "header is required" if version is None else "unknown version"
        raise Invalid("anthropic-version", f"{what}; send one of {', '.join(VERSIONS)}")


def require_beta(request: Request, value: str) -> None:
    """Raises `Invalid` unless `anthropic-beta` lists `value`; repeated headers and spaces are fine."""
    listed = {item.strip() for header in request.headers.getlist("anthropic-beta") for item in header.split(",")}
    if value not in listed:
        raise Invalid("anthropic-beta", f"this endpoint is in beta: send {value}")


def require_scope(identity: Identity, scope: str) -> None:
    """Raises `PermissionDenied`."""
    if scope not in identity.scopes:
        raise PermissionDenied(f"this credential does not have the scope {scope}")


def make_actor(request: Request, identity: Identity, workspace_id: str | None) -> Actor:
    """The actor an operation is given; the answer's headers then name the workspace, if there is one."""
    if workspace_id is not None:
        request.state.headers["anthropic-workspace-id"] = workspace_id
    return Actor(
        id=identity.subject,
        kind=identity.kind,
        organization_id=identity.organization_id,
        workspace_id=workspace_id,
        scopes=identity.scopes,
        credential_id=identity.credential_id,
        address=request.state.client_address,
        request_id=request.state.request_id,
    )


def body_schema(model: type[Body]) -> dict[str, Any]:
    """`openapi_extra` for a route that reads `model` itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": "required" in schema}}
