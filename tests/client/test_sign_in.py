"""The official MCP client, with its own OAuth flow, against protected servers behind a tunnel: no gateway at all."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from qanat.client import TunnelTransport
from qanat.pki.material import load_certificates
from tests.support.answers import first_text
from tests.support.asgi import serve_asgi
from tests.support.path import BASE, edge_running
from tests.support.requirements import requirement
from tests.support.sign_in import Browser, network_running


class Memory:
    """Where the client keeps what it was granted."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Callback:
    """The client's own redirect page."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.query: dict[str, str] = {}

    async def page(self, request: Request) -> Response:
        self.query = dict(request.query_params)
        return PlainTextResponse("Done")

    async def open(self, url: str) -> None:
        await self._browser.go(await self._browser.http.get(url))

    async def result(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult.model_validate(self.query)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["A", "B", "D"])
@requirement("oauth:1", "oauth:38")
async def test_the_official_client_signs_in_by_itself(tmp_path: Path, shape: str) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        parts = await enter(edge_running(tmp_path, ["org_a"]))
        network = await enter(network_running(parts, tmp_path / "net", shape))
        browser = Browser(network.provider.ca_file)
        await enter(browser.http)
        callback = Callback(browser)
        redirect = await enter(serve_asgi(Starlette(routes=[Route("/callback", callback.page)])))
        anchors = load_certificates((network.served.folder / "ca.pem").read_bytes())

        async def trusted(_: str) -> Sequence[x509.Certificate]:
            return anchors

        url = network.served.url("wiki")
        tunnel = TunnelTransport(parts.edge, trusted)
        bare = await enter(httpx2.AsyncClient(mounts={f"all://*.{BASE}": tunnel}, trust_env=False))
        challenged = await bare.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert challenged.status_code == 401
        assert "resource_metadata=" in challenged.headers["www-authenticate"]
        metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(f"{redirect}/callback")], client_name="test")
        auth = OAuthClientProvider(url, metadata, Memory(), callback.open, callback.result)
        context = ssl.create_default_context(cafile=str(network.provider.ca_file))
        mounts = {f"all://*.{BASE}": TunnelTransport(parts.edge, trusted)}
        http = await enter(httpx2.AsyncClient(mounts=mounts, verify=context, auth=auth, trust_env=False, timeout=50))
        async with Client(streamable_http_client(url, http_client=http)) as mcp:
            result = await mcp.call_tool("search", {"q": "x"})
        assert first_text(result) == "found x"
        through = [path for path, form in network.shim.requests if form.get("grant_type") == "authorization_code"]
        assert len(through) == (1 if shape == "B" else 0)
