"""Names of service accounts, issuers and rules: slugs, unique per kind and organization, archived ones included."""

from __future__ import annotations

import re

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import Conflict, Invalid
from qanat.control.store.tables import IssuerRow, RuleRow, ServiceAccountRow

PATTERN = r"^[a-z0-9-]+$"
MAX_LENGTH = 255


async def check_free_name(
    session: AsyncSession, table: type[ServiceAccountRow | IssuerRow | RuleRow], organization_id: str, name: str
) -> None:
    """Raises `Conflict`, `Invalid` for no slug. Call it under the organization's lock."""
    if len(name) > MAX_LENGTH or not re.fullmatch(PATTERN, name):
        raise Invalid("name", f"must have 1 to {MAX_LENGTH} small letters, digits and hyphens")
    query = select(table.id).where(table.organization_id == organization_id, table.name == name)
    if (await session.scalars(query)).first() is not None:
        raise Conflict("this name is in use")
