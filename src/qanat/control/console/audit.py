"""The audit trail: every change, who made it, from where and why."""

from __future__ import annotations

from starlette.responses import Response

from qanat.control.console.pages import Pages, Visit, show
from qanat.control.operations.pages import PageRequest

PAGE = 50


async def trail(visit: Visit) -> Response:
    """Newest first; of one thing when `target` names it."""
    query = visit.request.query_params
    target = query.get("target") or None
    request = PageRequest(PAGE, query.get("page") or None)
    found = await visit.operations.history.audit_trail(visit.actor, request, target_id=target)
    return show(visit, "audit.html", entries=found.data, next_page=found.next_page, target=target or "")


PAGES: Pages = {"/audit": {"GET": trail}}
