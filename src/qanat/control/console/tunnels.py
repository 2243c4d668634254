"""MCP tunnels: the list, a tunnel's page, and everything one can do there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.responses import Response

from qanat.control.console import access
from qanat.control.console.health import LIVE_CERTIFICATES, Verdict, judge, look, render_health
from qanat.control.console.live import stream
from qanat.control.console.pages import Pages, Visit, go, render_part, show
from qanat.control.errors import Refused
from qanat.control.nouns import Certificate, Tunnel
from qanat.control.operations.pages import PageRequest

FILTERS = ("active", "archived", "all")
LIVE = PageRequest(limit=1000)
EVERYTHING = PageRequest(limit=1000, include_archived=True)


async def list_tunnels(visit: Visit, error: Refused | None = None) -> Response:
    """The list, filtered."""
    rules, issuers, accounts = await access.choices(visit)
    return show(
        visit, "tunnels.html", error.status if error else 200, filters=FILTERS, error=error, rules=rules,
        issuers=issuers, accounts=accounts, form=_form_of(visit), **await _rows(visit),
        limit=visit.operations.context.config.limits.tunnels_per_organization,
    )  # fmt: skip


async def render_rows(visit: Visit) -> str:
    """The live part of the list."""
    return render_part("tunnel-rows.html", session=visit.session, **await _rows(visit))


async def _rows(visit: Visit) -> dict[str, Any]:
    """The tunnels that were asked for, and what is true of each."""
    wanted, list_page = visit.request.query_params.get("show", "active"), visit.operations.tunnels.list_page
    tunnels = [] if wanted == "archived" else (await list_page(visit.actor, LIVE)).data
    if wanted in ("archived", "all"):  # asked for apart: archived ones are without limit, and must not hide a live one
        newest = (await list_page(visit.actor, EVERYTHING)).data
        tunnels = [*tunnels, *(tunnel for tunnel in newest if tunnel.archived_at is not None)]
        tunnels.sort(key=lambda tunnel: tunnel.created_at, reverse=True)
    return {"wanted": wanted, "tunnels": tunnels, "verdicts": await _verdicts(visit, tunnels)}


def _form_of(visit: Visit) -> dict[str, str]:
    """What was filled in, so that nobody has to do it again after a mistake."""
    return getattr(visit.request.state, "form", {})


async def _verdicts(visit: Visit, tunnels: list[Tunnel]) -> dict[str, Verdict]:
    """What is true of each tunnel of the list."""
    operations, now = visit.operations, visit.operations.context.now()
    ids = [tunnel.id for tunnel in tunnels if tunnel.archived_at is None]
    connected, watched = await operations.connectors.of_tunnels(ids), await operations.watches.of_tunnels(ids)
    edge_is_up = await operations.connectors.edge_is_up()
    verdicts = {}
    for tunnel in tunnels:
        certificates: list[Certificate] = []
        if tunnel.archived_at is None:
            certificates = (await operations.certificates.list_page(visit.actor, tunnel.id, LIVE_CERTIFICATES)).data
        routes = watched.get(tunnel.id, [])
        verdicts[tunnel.id] = judge(tunnel, certificates, connected.get(tunnel.id, []), routes, edge_is_up, now)
    return verdicts


async def create(visit: Visit) -> Response:
    """Create a tunnel and show its page."""
    name, tunnels = _form_of(visit).get("name", ""), visit.operations.tunnels
    try:
        if _form_of(visit).get("programmatic") == "on":
            await tunnels.check(visit.actor, name)
            await access.set_up(visit)
        tunnel = await tunnels.create(visit.actor, name)
    except Refused as error:
        return await list_tunnels(visit, error)
    return go(f"/tunnels/{tunnel.id}", "created")


async def detail(visit: Visit, token: str = "", error: Refused | None = None) -> Response:
    """One tunnel: connection and certificates. `token` is shown only in the answer to asking for it."""
    operations, tunnel_id = visit.operations, visit.request.path_params["tunnel_id"]
    tunnel = await operations.tunnels.retrieve(visit.actor, tunnel_id)
    certificates = await operations.certificates.list_page(visit.actor, tunnel_id, EVERYTHING)
    live = [certificate for certificate in certificates.data if certificate.archived_at is None]
    return show(
        visit, "tunnel.html", error.status if error else 200, tunnel=tunnel, certificates=certificates.data,
        live=len(live), slots=operations.context.config.limits.certificates_per_tunnel, token=token, error=error,
        badge=certificate_badge, now=operations.context.now(), health=await look(visit, tunnel_id),
    )  # fmt: skip


def certificate_badge(certificate: Certificate, now: datetime) -> str:
    """`Revoked`, `Expired` or `Trusted`."""
    if certificate.archived_at is not None:
        return "Revoked"
    expired = certificate.expires_at is not None and certificate.expires_at <= now
    return "Expired" if expired else "Trusted"


async def reveal(visit: Visit) -> Response:
    """The same page with the token on it."""
    found = await visit.operations.tunnels.reveal_token(visit.actor, visit.request.path_params["tunnel_id"])
    return await detail(visit, token=found.tunnel_token.get_secret_value())


async def rotate(visit: Visit) -> Response:
    """A new token; the old one opens nothing any more."""
    tunnel_id = visit.request.path_params["tunnel_id"]
    await visit.operations.tunnels.rotate_token(visit.actor, tunnel_id, visit.request.state.form.get("reason") or None)
    return go(f"/tunnels/{tunnel_id}", "rotated")


async def archive(visit: Visit) -> Response:
    """For good: asked for twice by typing the tunnel's id."""
    tunnel_id = visit.request.path_params["tunnel_id"]
    if visit.request.state.form.get("confirm") != tunnel_id:
        return await detail(visit, error=NotConfirmed("type the tunnel's id to confirm"))
    await visit.operations.tunnels.archive(visit.actor, tunnel_id)
    return go(f"/tunnels/{tunnel_id}", "archived")


@dataclass(eq=False)
class NotConfirmed(Refused):
    """An irreversible change without its confirmation."""

    code = "not_confirmed"
    message: str

    def __str__(self) -> str:
        return self.message


async def add_certificate(visit: Visit) -> Response:
    """Register a CA certificate."""
    tunnel_id = visit.request.path_params["tunnel_id"]
    pem = visit.request.state.form.get("pem", "").replace("\r\n", "\n").strip()
    try:
        await visit.operations.certificates.create(visit.actor, tunnel_id, pem and pem + "\n")
    except Refused as error:
        return await detail(visit, error=error)
    return go(f"/tunnels/{tunnel_id}", "certificate")


async def revoke_certificate(visit: Visit) -> Response:
    """Take a CA certificate out of the trust set."""
    parameters = visit.request.path_params
    await visit.operations.certificates.archive(visit.actor, parameters["tunnel_id"], parameters["certificate_id"])
    return go(f"/tunnels/{parameters['tunnel_id']}", "revoked")


async def watch(visit: Visit) -> Response:
    """Have gateways probe a route from now on."""
    form, tunnel_id = visit.request.state.form, visit.request.path_params["tunnel_id"]
    try:
        await visit.operations.watches.add(visit.actor, tunnel_id, form.get("route", ""), form.get("path", ""))
    except Refused as error:
        return await detail(visit, error=error)
    return go(f"/tunnels/{tunnel_id}", "watched")


async def unwatch(visit: Visit) -> Response:
    """Probe a route no more."""
    form, tunnel_id = visit.request.state.form, visit.request.path_params["tunnel_id"]
    await visit.operations.watches.remove(visit.actor, tunnel_id, form.get("route", ""), form.get("path", ""))
    return go(f"/tunnels/{tunnel_id}", "removed")


PAGES: Pages = {
    "/tunnels": {"GET": list_tunnels, "POST": create},
    "/tunnels/live": {"GET": stream(render_rows)},
    "/tunnels/{tunnel_id}": {"GET": detail},
    "/tunnels/{tunnel_id}/live": {"GET": stream(render_health)},
    "/tunnels/{tunnel_id}/token": {"POST": reveal},
    "/tunnels/{tunnel_id}/rotate": {"POST": rotate},
    "/tunnels/{tunnel_id}/archive": {"POST": archive},
    "/tunnels/{tunnel_id}/watches": {"POST": watch},
    "/tunnels/{tunnel_id}/watches/remove": {"POST": unwatch},
    "/tunnels/{tunnel_id}/certificates": {"POST": add_certificate},
    "/tunnels/{tunnel_id}/certificates/{certificate_id}/revoke": {"POST": revoke_certificate},
}
