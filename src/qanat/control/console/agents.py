"""The picker of tunnels for agents: which can be used, and the URL that an agent's configuration wants.

A tunnel is offered while a CA certificate that is registered on it holds: without one, calls are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.responses import Response

from qanat.control.console.pages import Pages, Visit, show
from qanat.control.console.tunnels import certificate_badge
from qanat.control.errors import Invalid
from qanat.control.nouns import Tunnel
from qanat.control.operations.pages import PageRequest
from qanat.control.operations.watches import check

LIVE = PageRequest(limit=1000)
CERTIFICATES = PageRequest(limit=100)


@dataclass(frozen=True)
class Card:
    """A tunnel that may be picked, what was typed on its card, and what that comes to."""

    tunnel: Tunnel
    route: str = ""
    path: str = ""
    url: str = ""
    problem: str = ""

    @property
    def entry(self) -> str:
        """For `mcp_servers` of a request to the Messages API."""
        name = self.route or self.tunnel.display_name or "server"
        return json.dumps({"type": "url", "url": self.url, "name": name}, indent=2, ensure_ascii=False)


async def pick(visit: Visit) -> Response:
    """The cards; the one that was filled in shows its URL."""
    query, now = visit.request.query_params, visit.operations.context.now()
    cards = []
    for tunnel in (await visit.operations.tunnels.list_page(visit.actor, LIVE)).data:
        certificates = await visit.operations.certificates.list_page(visit.actor, tunnel.id, CERTIFICATES)
        if any(certificate_badge(certificate, now) == "Trusted" for certificate in certificates.data):
            typed = query if query.get("tunnel") == tunnel.id else {}
            cards.append(make_card(tunnel, typed.get("route", ""), typed.get("path", "")))
    return show(visit, "agents.html", cards=cards, picked=query.get("tunnel", ""))


def make_card(tunnel: Tunnel, route: str, path: str) -> Card:
    """Pure: the URL, or why there is none."""
    route, path = route.strip().lower(), path.strip()
    try:
        url = resolve(tunnel.domain, route, path)
    except Invalid as error:
        return Card(tunnel, route, path, problem=str(error))
    return Card(tunnel, route, path, url)


def resolve(domain: str, route: str, path: str) -> str:
    """`https://route.domain/path`; route and path may be empty. Raises `Invalid`."""
    _, path = check(route or "x", path)
    return f"https://{route + '.' if route else ''}{domain}{'' if path == '/' else path}"


PAGES: Pages = {"/agents": {"GET": pick}}
