"""Who may call the Admin API, and the parts its routers share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from pydantic import Field

from qanat.control.operations.authentication import ORG_ADMIN
from qanat.control.operations.context import Actor
from qanat.control.operations.names import MAX_LENGTH, PATTERN
from qanat.control.rest.requests import Who, make_actor, require_scope, require_version

Name = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH, pattern=PATTERN)]
Description = Annotated[str, Field(max_length=4096)]
ID = Annotated[str, Field(max_length=128)]


async def administrator_of(request: Request, who: Who) -> Actor:
    """Who may administer the organization: a bearer with `org:admin`. Any workspace binding is ignored."""
    require_version(request)
    require_scope(who, ORG_ADMIN)
    request.app.state.limits.count_request(who.credential_id)
    return make_actor(request, who, None)


Administrator = Annotated[Actor, Depends(administrator_of)]
