"""What edges and gateways call: `/internal/v1`, under service keys of their own."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

from qanat.api.internal import Change, Credential, EventBatch, Principal, TunnelRecord, Watches
from qanat.control.config import ServiceKey
from qanat.control.errors import AuthenticationFailed, Invalid, PermissionDenied
from qanat.control.metrics import Metrics
from qanat.control.operations.authentication import digest
from qanat.control.rest.requests import Ops, invalid_field, presented_credential
from qanat.ids import OrganizationID, WorkspaceID

MAX_EVENTS = 1000
MAX_CURSOR = 2**63 - 1
M = TypeVar("M", bound=BaseModel)
Role = Literal["edge", "gateway"]


class ServiceKeys:
    """Which service key has which role; only hashes are kept. Raises `ConfigInvalid` through `load`."""

    def __init__(self, keys: Sequence[tuple[ServiceKey, str]]) -> None:
        self._keys = [(digest(value), key) for key, value in keys]

    def check(self, request: Request, *roles: Role) -> ServiceKey:
        """The key presented. Raises `AuthenticationFailed`, or `PermissionDenied` for another role."""
        # Until it passes, a refusal is about this key, not about a credential that is being asked about.
        request.state.headers["x-qanat-service-key"] = "refused"
        presented = digest(presented_credential(request))
        matches = [key for sha256, key in self._keys if hmac.compare_digest(sha256, presented)]
        if not matches:
            raise AuthenticationFailed
        if matches[0].role not in roles:
            raise PermissionDenied("this service key has another role")
        del request.state.headers["x-qanat-service-key"]
        request.state.actor_id = matches[0].name
        return matches[0]


async def any_node(request: Request) -> ServiceKey:
    return _keys(request).check(request, "edge", "gateway")


async def gateway_only(request: Request) -> ServiceKey:
    return _keys(request).check(request, "gateway")


def _keys(request: Request) -> ServiceKeys:
    keys = request.app.state.service_keys
    assert isinstance(keys, ServiceKeys)
    return keys


router = APIRouter(prefix="/internal/v1", include_in_schema=False)
Node = Depends(any_node)


@router.get("/tunnels", dependencies=[Node])
async def find_tunnel(operations: Ops, uuid: str | None = None, domain: str | None = None) -> TunnelRecord:
    if (uuid is None) == (domain is None):
        raise Invalid("", "ask by exactly one of uuid and domain")
    if domain is not None:
        return await operations.data_plane.tunnel_by_domain(domain)
    try:
        return await operations.data_plane.tunnel_by_uuid(UUID(uuid))
    except ValueError:
        raise Invalid("uuid", "must be a UUID") from None


@router.get("/changes", dependencies=[Node])
async def follow_changes(
    request: Request, operations: Ops, after: Annotated[int | None, Query(ge=0, le=MAX_CURSOR)] = None
) -> StreamingResponse:
    changes = operations.data_plane.follow(after, request.app.state.closing)
    return StreamingResponse(_lines(changes), media_type="application/x-ndjson")


async def _lines(changes: AsyncIterator[Change]) -> AsyncIterator[str]:
    async for change in changes:
        yield change.model_dump_json() + "\n"


@router.post("/events", dependencies=[Node], status_code=204)
async def record_events(request: Request, operations: Ops) -> Response:
    batch = await _read(request, EventBatch)
    if len(batch.events) > MAX_EVENTS:
        raise Invalid("events", f"at most {MAX_EVENTS} in a batch")
    metrics: Metrics = request.app.state.metrics
    for what, count in (await operations.events.record(batch)).items():
        metrics.first_times.labels(what).inc(count)
    return Response(status_code=204)


@router.get("/watches", dependencies=[Depends(gateway_only)])
async def list_watches(operations: Ops) -> Watches:
    return await operations.watches.to_probe()


@router.post("/authenticate", dependencies=[Depends(gateway_only)])
async def authenticate(request: Request, operations: Ops) -> Principal:
    body = await _read(request, Credential)
    identity = await operations.authentication.identify(body.credential.get_secret_value())
    organization_wide = identity.workspace_id is None and not identity.operator
    workspace_id = None
    if not organization_wide:
        try:
            workspace_id = await operations.authentication.choose_workspace(identity, body.workspace_id)
        except PermissionDenied as error:
            raise AuthenticationFailed(str(error)) from None
    return Principal(
        organization_id=OrganizationID(identity.organization_id),
        workspace_id=None if workspace_id is None else WorkspaceID(workspace_id),
        scopes=identity.scopes,
        subject=identity.subject,
        kind=identity.kind,
        expires_at=identity.expires_at,
    )


async def _read(request: Request, model: type[M]) -> M:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid_field(error) from None
