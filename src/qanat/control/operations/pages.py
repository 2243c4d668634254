"""Lists, page by page, newest first.

A cursor is `page_` and base64url of a signed (time, id, filter): it names the last item seen, so items created after
the first page never appear on later ones, and it works on any node after any restart.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, and_, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from qanat.control.errors import Invalid
from qanat.control.store.tables import EPOCH, MICROSECOND

DEFAULT_LIMIT = 20
_TAG_SIZE = 16
R = TypeVar("R")


@dataclass(frozen=True)
class PageRequest:
    """Which page of a list; `page` is a cursor we gave out."""

    limit: int = DEFAULT_LIMIT
    page: str | None = None
    include_archived: bool = False


def _filter_hash(filters: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(filters, default=str).encode()).hexdigest()[:16]


def make_cursor(key: bytes, moment: datetime, id: str, filters: Sequence[object]) -> str:
    """The cursor that continues after the item created at `moment` with `id`, for the same filters only."""
    payload = json.dumps([(moment - EPOCH) // MICROSECOND, id, _filter_hash(filters)], separators=(",", ":")).encode()
    tag = hmac.digest(key, payload, "sha256")[:_TAG_SIZE]
    return "page_" + base64.urlsafe_b64encode(tag + payload).rstrip(b"=").decode()


def read_cursor(key: bytes, cursor: str, filters: Sequence[object]) -> tuple[datetime, str]:
    """Where a cursor continues. Raises `Invalid`."""
    try:
        body = cursor.removeprefix("page_").encode("ascii")
        raw = base64.b64decode(body + b"=" * (-len(body) % 4), altchars=b"-_", validate=True)
        tag, payload = raw[:_TAG_SIZE], raw[_TAG_SIZE:]
        if not hmac.compare_digest(tag, hmac.digest(key, payload, "sha256")[:_TAG_SIZE]):
            raise ValueError
        microseconds, id, filter_hash = json.loads(payload)
        if not cursor.startswith("page_") or filter_hash != _filter_hash(filters):
            raise ValueError
        return EPOCH + microseconds * MICROSECOND, id
    except (ValueError, binascii.Error):
        raise Invalid("page", "invalid cursor") from None


async def read_page(
    session: AsyncSession,
    key: bytes,
    query: Select[R],
    order: tuple[InstrumentedAttribute[datetime], InstrumentedAttribute[str]],
    request: PageRequest,
    filters: Sequence[object],
) -> tuple[list[R], str | None]:
    """The rows of a page of `query`, newest first by `order`, and the cursor of the next."""
    created_at, id = order
    if request.page is not None:
        moment, last_id = read_cursor(key, request.page, filters)
        # The first condition is implied by the second; it lets the index be searched instead of scanned.
        older = or_(created_at < moment, and_(created_at == moment, id < last_id))
        query = query.where(created_at <= moment, older)
    query = query.order_by(created_at.desc(), id.desc()).limit(request.limit + 1)
    rows = list((await session.scalars(query)).all())
    if len(rows) <= request.limit:
        return rows, None
    last: Any = rows[request.limit - 1]
    return rows[: request.limit], make_cursor(key, getattr(last, created_at.key), getattr(last, id.key), filters)
