"""The client library through a real edge, a real connector connection and a real proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from qanat.client import TunnelFailed, open_tunnel
from qanat.client.forward import serve_forward
from qanat.pki.material import load_certificates
from tests.support.answers import first_text
from tests.support.edge import CLIENT_NAME
from tests.support.gateway import Wiki, wiki_server
from tests.support.path import PathParts, Served, edge_running, tunnel_running
from tests.support.pki import throwaway_ca
from tests.support.requirements import requirement


class Way:
    """A tunnel to a wiki, and the options that reach it."""

    def __init__(self, parts: PathParts, served: Served, wiki: Wiki) -> None:
        self.parts, self.served, self.wiki = parts, served, wiki

    def open(self, ca: Path | None = None) -> httpx2.AsyncClient:
        files = self.parts.files
        host, port = self.parts.server.client_address
        return open_tunnel(
            f"{host}:{port}",
            certificate=files.path(CLIENT_NAME),
            key=files.path(f"{CLIENT_NAME}-key"),
            ca=ca or self.served.folder / "ca.pem",
            edge_ca=files.path("client-listener-ca"),
        )


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    async with AsyncExitStack() as stack:
        wiki = await stack.enter_async_context(wiki_server())
        parts = await stack.enter_async_context(edge_running(tmp_path, ["org_a"]))
        upstream = wiki.url.removesuffix("/mcp")
        served = await stack.enter_async_context(tunnel_running(parts, tmp_path / "a", {"wiki": upstream}))
        yield Way(parts, served, wiki)


@requirement("client:1")
async def test_the_official_mcp_client_reaches_a_private_server(way: Way) -> None:
    url = way.served.url("wiki")
    async with way.open() as http, Client(streamable_http_client(url, http_client=http)) as mcp:
        result = await mcp.call_tool("search", {"q": "x"})
    assert first_text(result) == "found x"


def pooled(http: httpx2.AsyncClient) -> int:
    """How many connections a client of ours holds."""
    transport: Any = http._transport
    return len(transport._pool.connections)


@requirement("client:2")
async def test_many_requests_travel_over_one_session(way: Way) -> None:
    async with way.open() as http:
        for _ in range(5):
            response = await http.get(way.served.url("wiki", "/nothing"))
            assert response.status_code == 404
        assert pooled(http) == 1


@requirement("client:3")
async def test_a_server_vouched_for_by_another_ca_is_refused_and_the_proxy_is_named(way: Way, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(throwaway_ca().certificate_pem)
    async with way.open(tmp_path / "other.pem") as http:
        with pytest.raises(TunnelFailed) as caught:
            await http.get(way.served.url("wiki"))
    assert (caught.value.reason, caught.value.hop) == ("server_certificate_refused", "proxy")


@requirement("client:4")
async def test_the_edges_refusal_names_its_code_and_hop(way: Way) -> None:
    async with way.open() as http:
        with pytest.raises(TunnelFailed) as caught:
            await http.get("https://wiki.nobody99.tunnel.example.net/mcp")
    assert (caught.value.reason, caught.value.hop) == ("unknown_host", "edge")
    assert isinstance(caught.value, httpx2.ConnectError)


@requirement("client:5")
async def test_a_loopback_port_leads_through_the_tunnel(way: Way) -> None:
    host = httpx2.URL(way.served.url("wiki")).host
    anchors = load_certificates(way.served.ca.certificate_pem)
    async with serve_forward(way.parts.edge, host, anchors) as forward:
        async with Client(f"{forward.url}/mcp") as mcp:
            result = await mcp.call_tool("search", {"q": "x"})
        assert first_text(result) == "found x"
        async with httpx2.AsyncClient(base_url=forward.url) as http:

            async def pieces() -> AsyncIterator[bytes]:
                yield b"{"
                yield b"}"

            assert (await http.post("/nothing", content=pieces())).status_code == 404
            assert (await http.post("/nothing", content=b"{}")).status_code == 404
            for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
                refused = await http.get("/mcp", headers=headers)
                assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden_host")
    assert way.wiki.requests[-1][1]["x-forwarded-host"] == host


async def test_a_forward_says_why_the_tunnel_failed(way: Way) -> None:
    nobody, anchors = "wiki.nobody99.tunnel.example.net", [way.served.ca.certificate]
    async with serve_forward(way.parts.edge, nobody, anchors) as forward, httpx2.AsyncClient() as http:
        answer = await http.get(f"{forward.url}/mcp")
    assert (answer.status_code, answer.json()["error"]["hop"]) == (502, "edge")
