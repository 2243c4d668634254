"""The playground: pick a tunnel and a route, list its tools, call one, and see what each hop took.

Whoever may only look sees the page without its forms. The token for the server is taken from the form it was typed
into and never written into a page again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.responses import Response

from qanat.api.internal import OfferedTool, TrialOutcome
from qanat.control.console.pages import Pages, Visit, show
from qanat.control.console.schema_form import PREFIX, WHOLE, Field, fields_of, read_arguments
from qanat.control.errors import Refused
from qanat.control.nouns import Tunnel, WatchedRoute
from qanat.control.operations.pages import PageRequest
from qanat.control.operations.playground import Wish
from qanat.control.rest.limits import Buckets

LIVE = PageRequest(limit=1000)
STRETCHES = {
    "connect": "connected to the edge (TCP, outer TLS)",
    "tunnel": "through the tunnel to the proxy and back",
    "inner_tls": "inner TLS with the proxy",
    "initialize": "met the MCP server",
    "tools/list": "listed its tools",
    "tools/call": "called the tool",
}


@dataclass(frozen=True)
class ToolForm:
    """A tool, and the fields of its arguments."""

    tool: OfferedTool
    fields: list[Field]
    whole: str
    """Its arguments as they were written in JSON."""
    chosen: bool


@dataclass(frozen=True)
class Choice:
    """What was picked so far."""

    tunnel: str = ""
    route: str = ""
    path: str = "/mcp"


async def page(visit: Visit) -> Response:
    """The page; nobody is asked for anything yet."""
    return await _show(visit, visit.request.query_params)


async def try_it(visit: Visit) -> Response:
    """List the tools, or call one."""
    form: dict[str, str] = visit.request.state.form
    trials: Buckets = visit.request.app.state.trials
    try:
        trials.take(f"{visit.session.organization_id} {visit.session.user}")
        tool, token = form.get("tool") or None, form.pop("token", "").strip()
        wish = Wish(
            form.get("route", ""), form.get("path", ""), tool, read_arguments(form) if tool else None,
            SecretStr(token) if token else None,
        )  # fmt: skip
        outcome = await visit.operations.playground.run(visit.actor, form.get("tunnel", ""), wish)
    except Refused as error:
        return await _show(visit, form, error=error)
    return await _show(visit, form, outcome)


async def _show(
    visit: Visit, picked: Mapping[str, str], outcome: TrialOutcome | None = None, error: Refused | None = None
) -> Response:
    tunnels, watched = await _places(visit)
    choice = Choice(picked.get("tunnel", ""), picked.get("route", ""), picked.get("path") or "/mcp")
    return show(
        visit, "playground.html", error.status if error else 200, tunnels=tunnels, watched=watched, choice=choice,
        tool=picked.get("tool", ""), outcome=outcome, error=error, forms=_forms(outcome, picked), stretches=STRETCHES,
        total=sum(stretch.ms for stretch in outcome.times) if outcome else 0.0,
    )  # fmt: skip


async def _places(visit: Visit) -> tuple[list[Tunnel], dict[str, list[WatchedRoute]]]:
    """The workspace's live tunnels, and the routes that are watched of each."""
    tunnels = (await visit.operations.tunnels.list_page(visit.actor, LIVE)).data
    return tunnels, await visit.operations.watches.of_tunnels([tunnel.id for tunnel in tunnels])


def _forms(outcome: TrialOutcome | None, filled: Mapping[str, str]) -> list[ToolForm]:
    if outcome is None:
        return []
    chosen = filled.get("tool", "")
    typed = {name: value for name, value in filled.items() if name.startswith(PREFIX)}
    return [
        ToolForm(
            tool,
            fields_of(tool.input_schema, typed if tool.name == chosen else {}),
            filled.get(WHOLE, "") if tool.name == chosen else "",
            tool.name == chosen,
        )
        for tool in outcome.tools
    ]


PAGES: Pages = {"/playground": {"GET": page, "POST": try_it}}
