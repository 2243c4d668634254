"""What is true of a tunnel right now: three facts kept apart, who is connected, what went through.

A tunnel is up only when every fact holds; the first that does not is named, in the order of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from qanat.control.console.pages import Visit, render_part
from qanat.control.console.plots import Value, plot
from qanat.control.nouns import Certificate, Connector, OperatorEvent, TrafficPoint, Tunnel, WatchedRoute
from qanat.control.operations.pages import PageRequest

STEP, STEPS = timedelta(minutes=1), 60
LIVE_CERTIFICATES = PageRequest(limit=100)
LAST_CALLS = PageRequest(limit=10)


@dataclass(frozen=True)
class Verdict:
    """The tunnel's state in one word for the badge, and in a sentence that names the hop."""

    word: str
    tone: str
    """`good`, `warn`, `bad` or empty."""
    sentence: str


@dataclass(frozen=True)
class Health:
    """Everything the live part of a tunnel's page shows."""

    tunnel: Tunnel
    verdict: Verdict
    connectors: list[Connector]
    certificates: list[Certificate]
    trusted: int
    """How many of them a gateway would trust now."""
    routes: list[WatchedRoute]
    calls: list[OperatorEvent]
    plots: list[Markup]


def judge(
    tunnel: Tunnel,
    certificates: list[Certificate],
    connectors: list[Connector],
    routes: list[WatchedRoute],
    edge_is_up: bool,
    now: datetime,
) -> Verdict:
    """Pure: what the facts amount to. The worst of the watched routes counts."""
    if tunnel.archived_at is not None:
        return Verdict("Archived", "", "This tunnel was archived; nothing goes through it any more.")
    if all(found.archived_at for found in certificates):
        return Verdict("No certificate", "warn", "Gateway: refuses calls, because no CA certificate is registered.")
    if not count_trusted(certificates, now):
        return Verdict("Expired", "bad", "Gateway: refuses calls, because every registered CA certificate has expired.")
    if not connectors and not edge_is_up:
        return Verdict("Not connected", "bad", "Edge: no node is heard of, and so no connector.")
    if not connectors:
        return Verdict("Not connected", "bad", "Connector: none is connected to any edge.")
    return _judge_path(connectors, routes)


def _judge_path(connectors: list[Connector], routes: list[WatchedRoute]) -> Verdict:
    found = _judge_routes(routes)
    live = sum(connector.silent_since is None for connector in connectors)
    silent = _silent_nodes(connectors)
    if found is not None and found.word == "Down":
        return found
    if not live and not (routes and found is None):
        return Verdict("Silent", "bad", f"Edge: {silent}, and the tunnel has no other connection.")
    if found is not None:
        return found
    holds = f"{live} connection{'' if live == 1 else 's'} to the edge."
    return Verdict("Connected", "good", f"{holds} But {silent}." if silent else holds)


def _silent_nodes(connectors: list[Connector]) -> str:
    """The nodes that hold connections and are not heard of, as words."""
    since = {each.node: each.silent_since for each in connectors if each.silent_since is not None}
    return " and ".join(f"nothing is heard of node {node} since {time:%H:%M:%S} UTC" for node, time in since.items())


def count_trusted(certificates: list[Certificate], now: datetime) -> int:
    """How many are registered and have not expired."""
    live = (found for found in certificates if found.archived_at is None)
    return sum(found.expires_at is None or found.expires_at > now for found in live)


def _judge_routes(routes: list[WatchedRoute]) -> Verdict | None:
    for route in routes:
        if route.ok is False:
            why = f"{(route.hop or 'unknown hop').capitalize()}: {route.error or 'no answer'}"
            return Verdict("Down", "bad", f"{why} (route {route.route}{route.path}).")
    if unknown := [route.route + route.path for route in routes if route.ok is None]:
        return Verdict("Unknown", "warn", f"Gateway: no fresh word about {', '.join(unknown[:3])}.")
    return None


async def look(visit: Visit, tunnel_id: str) -> Health:
    """The facts, gathered now."""
    operations, actor = visit.operations, visit.actor
    now = operations.context.now()
    routes = (await operations.watches.of_tunnels([tunnel_id])).get(tunnel_id, [])
    tunnel = await operations.tunnels.retrieve(actor, tunnel_id)
    certificates = (await operations.certificates.list_page(actor, tunnel_id, LIVE_CERTIFICATES)).data
    connectors = await operations.connectors.of_tunnel(actor, tunnel_id)
    edge_is_up = await operations.connectors.edge_is_up()
    until = now.replace(second=0, microsecond=0) + STEP
    traffic = await operations.events.traffic(actor, tunnel_id, until - STEPS * STEP, until, STEP)
    calls = await operations.events.list_page(actor, LAST_CALLS, tunnel_id=tunnel_id, kinds=("call",))
    return Health(
        tunnel, judge(tunnel, certificates, connectors, routes, edge_is_up, now), connectors, certificates,
        count_trusted(certificates, now), routes, calls.data, _plots(traffic, until),
    )  # fmt: skip


async def render_health(visit: Visit) -> str:
    """The live part of a tunnel's page."""
    health = await look(visit, visit.request.path_params["tunnel_id"])
    return render_part("health.html", health=health)


def _plots(traffic: list[TrafficPoint], until: datetime) -> list[Markup]:
    quantities: tuple[tuple[str, str, Value], ...] = (
        ("Calls", "per minute", lambda point: float(point.calls)),
        ("Latency", "ms, mean", lambda point: point.duration_ms / point.calls if point.calls else None),
        ("Bytes", "KB per minute", lambda point: (point.bytes_in + point.bytes_out) / 1000),
        ("Errors", "per minute", lambda point: float(point.errors)),
    )
    return [
        plot(traffic, value, title, unit, until, STEPS, STEP, idle=None if title == "Latency" else 0.0)
        for title, unit, value in quantities
    ]
