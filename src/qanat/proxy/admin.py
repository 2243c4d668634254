"""Metrics, health and route state on an address of their own, for people inside the network."""

from __future__ import annotations

import asyncio
import json

from prometheus_client import generate_latest

from qanat.net.http1 import RequestReceived
from qanat.net.transport import as_protocol
from qanat.proxy.config import Admin
from qanat.proxy.errors import Reply
from qanat.proxy.plain import PlainConnection, text_reply
from qanat.proxy.proxy import Proxy


async def start_admin(proxy: Proxy, config: Admin) -> asyncio.AbstractServer:
    """Serve `/metrics`, `/healthz`, `/readyz` and `/routes`. Raises `OSError`."""
    host, port = config.listen_addr
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: as_protocol(PlainConnection(lambda request: _answer(proxy, request))), host or None, port
    )


def _answer(proxy: Proxy, request: RequestReceived) -> Reply:
    path = request.target.partition(b"?")[0]
    if path == b"/metrics":
        text = generate_latest(proxy.metrics.registry).decode()
        return text_reply(200, text, "text/plain; version=0.0.4; charset=utf-8")
    if path == b"/healthz":
        return text_reply(200, "ok\n")
    if path == b"/readyz":
        return text_reply(200, "ok\n") if proxy.ready else text_reply(503, "not ready\n")
    if path == b"/routes":
        return text_reply(200, json.dumps(_routes(proxy), indent=2) + "\n", "application/json")
    return text_reply(404, "not found\n")


def _routes(proxy: Proxy) -> list[dict[str, object]]:
    return [
        {
            "route": name,
            "upstream": str(route.destination.url),
            "host_header": route.host_header,
            "allowed": route.destination.guard.describe(),
            "in_flight": route.pool.in_flight,
            "connections": route.pool.open,
        }
        for name, route in proxy.routes.items()
    ]
