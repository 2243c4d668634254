"""A client of ours that is told to go away leaves its session between two calls, and loses none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from qanat.client import TunnelTransport
from tests.support.asgi import serve_asgi
from tests.support.edge import TIMEOUT
from tests.support.path import edge_running, tunnel_running
from tests.support.requirements import requirement


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


@requirement("edge:drain")
async def test_a_pooled_session_is_left_after_the_notice(tmp_path: Path) -> None:
    app = Starlette(routes=[Route("/mcp", _hello)])
    async with (
        serve_asgi(app) as upstream,
        edge_running(tmp_path, ["org_a"]) as parts,
        tunnel_running(parts, tmp_path / "a", {"tickets": upstream}) as served,
    ):

        async def anchors(_: str) -> list[x509.Certificate]:
            return [served.ca.certificate]

        def opened() -> float | None:
            registry = parts.server.metrics.registry
            return registry.get_sample_value("qanat_edge_streams_opened_total", {"via": "local"})

        async with httpx2.AsyncClient(transport=TunnelTransport(parts.edge, anchors)) as http:
            for _ in range(2):
                assert (await http.get(served.url("tickets"))).text == "hello"
            assert opened() == 1, "one session carries both"
            for connection in parts.server.connections:
                parts.server.sessions.move(connection)
            async with asyncio.timeout(TIMEOUT):  # nobody calls, and yet the session is left: a drain need not wait
                await parts.server.sessions.empty.wait()
            assert (await http.get(served.url("tickets"))).text == "hello"
            assert (await http.get(served.url("tickets"))).text == "hello"
            assert opened() == 2
