"""`POST /v1/oauth/token`: JSON as official SDKs send it, or a form for those who know OAuth."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field

from qanat.control.assertions import MAX_ASSERTION
from qanat.control.errors import Invalid
from qanat.control.nouns import ExchangedToken
from qanat.control.operations.exchange import ExchangeRequest
from qanat.control.rest.requests import Body, Ops, body_schema, check_body, is_json, parse_json
from qanat.control.rest.tunnels import no_store
from qanat.ids import is_well_formed

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
router = APIRouter(tags=["Workload identity"])


class TokenRequest(Body):
    model_config = ConfigDict(extra="ignore")

    grant_type: str
    assertion: Annotated[str, Field(min_length=1)]
    federation_rule_id: str
    organization_id: str
    service_account_id: str | None = None
    workspace_id: str | None = None


@router.post("/v1/oauth/token", dependencies=[Depends(no_store)], openapi_extra=body_schema(TokenRequest))
async def exchange_token(request: Request, operations: Ops) -> ExchangedToken:
    limits, address = request.app.state.limits, request.state.client_address
    limits.count_exchange(address)
    body = check_body(await _read(request), TokenRequest)
    wanted = _well_formed(body, address, request.state.request_id)
    return await operations.exchange.exchange(
        wanted, on_proven=lambda: limits.count_proven_exchange(address, wanted.rule_id)
    )


async def _read(request: Request) -> dict[str, object]:
    content_type, raw = request.headers.get("content-type", ""), await request.body()
    if is_json(content_type):
        return parse_json(raw)
    if content_type.split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Invalid("", "content-type must be application/json")
    try:
        pairs = parse_qsl(raw.decode("utf-8"), max_num_fields=32)
    except ValueError:
        raise Invalid("", "request body is not a valid form") from None
    if len(dict(pairs)) != len(pairs) or any("\0" in value for _, value in pairs):
        raise Invalid("", "request body is not a valid form")
    return dict(pairs)


def _well_formed(body: TokenRequest, address: str, request_id: str) -> ExchangeRequest:
    """Raises `Invalid` naming the first field that is not what it must be."""
    if body.grant_type != GRANT_TYPE:
        raise Invalid("grant_type", f"must be {GRANT_TYPE}")
    if len(body.assertion.encode()) > MAX_ASSERTION:
        raise Invalid("assertion", f"must have at most {MAX_ASSERTION} bytes")
    if not is_well_formed("fdrl", body.federation_rule_id):
        raise Invalid("federation_rule_id", "must be a rule id such as fdrl_01…")
    if body.service_account_id and not is_well_formed("svac", body.service_account_id):
        raise Invalid("service_account_id", "must be a service account id such as svac_01…")
    if body.workspace_id and body.workspace_id != "default" and not is_well_formed("wrkspc", body.workspace_id):
        raise Invalid("workspace_id", "must be a workspace id such as wrkspc_01…, or default")
    return ExchangeRequest(
        assertion=body.assertion,
        rule_id=body.federation_rule_id,
        organization_id=_uuid(body.organization_id),
        service_account_id=body.service_account_id or None,
        workspace_id=body.workspace_id or None,
        address=address,
        request_id=request_id,
    )


def _uuid(text: str) -> str:
    try:
        if len(text) != 36:
            raise ValueError
        return str(UUID(text))
    except ValueError:
        raise Invalid("organization_id", "must be a UUID") from None
