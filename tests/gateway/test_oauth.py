"""Signing in for a user at a provider we did not write, which sits behind the proxy; then using what was granted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qanat.gateway.oauth.store import Key, Store
from qanat.gateway.oauth.vaults import covers
from qanat.gateway.server import serve
from tests.gateway.test_tunnels import config
from tests.support.gateway import KEY, DictControl, Wiki, principal
from tests.support.path import edge_running
from tests.support.ports import free_port
from tests.support.requirements import requirement
from tests.support.sign_in import Browser, Network, network_running

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "mcp-client-2025-11-20"}


@dataclass
class Place:
    """A gateway with vaults, and a private network behind a tunnel."""

    http: httpx2.AsyncClient
    network: Network
    wiki: Wiki
    browser: Browser
    store: Store

    @property
    def url(self) -> str:
        return self.network.served.url("wiki")

    @property
    def key(self) -> Key:
        return Key("org_a", "wrkspc_a", "alice", self.url)

    async def connect(self, **fields: Any) -> httpx2.Response:
        return await self.http.post("/v1/vaults/alice/connections", json={"url": self.url, **fields})

    async def ask(self, word: str = "qanats", vault: str = "alice") -> httpx2.Response:
        body = {
            "model": "qanat-demo",
            "max_tokens": 1000,
            "messages": [{"role": "user", "content": f"Search the wiki for '{word}'"}],
            "mcp_servers": [{"type": "url", "url": self.url, "name": "wiki"}],
            "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
        }
        return await self.http.post("/v1/messages", json=body, headers={"qanat-vault": vault})

    async def change(self, **fields: Any) -> None:
        """Alter the stored credential."""
        stored = await self.store.get(self.key)
        assert stored is not None
        await self.store.put(self.key, stored.credential.model_copy(update=fields))


@asynccontextmanager
async def place(tmp_path: Path, shape: str) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        parts = await enter(edge_running(tmp_path, ["org_a"]))
        network = await enter(network_running(parts, tmp_path / "net", shape))
        record = network.served.record
        control = DictControl(principals={KEY: principal("a")}, tunnels={record.domain: record})
        port = free_port()
        master = tmp_path / "master"
        master.write_text("ab" * 32)
        oauth = {
            "public_url": f"http://127.0.0.1:{port}",
            "database": tmp_path / "vaults.db",
            "key_file": master,
            "allowed_ips": ["127.0.0.0/8", "::1/128"],
            "ca_file": network.provider.ca_file,
        }
        settings = config(parts, listen=f"127.0.0.1:{port}", oauth=oauth)
        gateway = await enter(serve(settings, control=control))
        http = await enter(httpx2.AsyncClient(base_url=gateway.url, headers=HEADERS, timeout=50))
        browser = Browser(network.provider.ca_file)
        await enter(browser.http)
        yield Place(http, network, network.wiki, browser, Store(tmp_path / "vaults.db", bytes.fromhex("ab" * 32)))


def tunnel_oauth(network: Network, **changes: Any) -> dict[str, Any]:
    fields = {
        "issuer": "https://sso.corp.internal",
        "authorization_endpoint": f"{network.public}/auth",
        "token_endpoint": f"{network.auth}/token",
        "registration_endpoint": f"{network.auth}/reg",
        "scopes": "wiki.read offline_access",
    }
    return {**fields, **changes}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["A", "B", "C", "D"])
@requirement("oauth-gateway:1", "oauth-gateway:2", "oauth:6", "oauth:19", "oauth:24", "oauth:37")
async def test_a_sign_in_ends_with_a_tool_result(tmp_path: Path, shape: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with place(tmp_path, shape) as here:
        before = await here.ask()
        assert (before.status_code, "Authentication error" in before.text) == (400, True)
        fields = {"tunnel_oauth": tunnel_oauth(here.network)} if shape == "C" else {}
        begun = await here.connect(**fields)
        assert begun.status_code == 200, begun.text
        assert begun.json()["authorization_host"] == "localhost"
        page = await here.browser.sign_in(begun.json()["start_url"])
        assert (page.status_code, "Signed in" in page.text) == (200, True), page.text
        answer = await here.ask()
        assert answer.status_code == 200, answer.text
        assert "found qanats" in answer.text
        again = await here.browser.http.get(page.request.url)
        assert (again.status_code, "invalid_state" in again.text) == (400, True)
        paths = [path for path, _ in here.network.shim.requests]
        assert paths.count("/token") == (1 if shape in "BC" else 0)
        assert all(url.host in ("localhost", "127.0.0.1") for url in here.browser.visited)
        if shape in "BC":
            forms = [form for path, form in here.network.shim.requests if path == "/token"]
            assert forms[0]["resource"] == here.url
        stored = await here.store.get(here.key)
        assert stored is not None
        shown = (await here.http.get("/v1/vaults/alice")).text
        raw = (tmp_path / "vaults.db").read_bytes()
        secrets = {stored.credential.access_token, stored.credential.refresh_token}
        for _, form in here.network.shim.requests:
            secrets |= {form.get("code"), form.get("code_verifier")}
        for secret in secrets:
            if secret:
                assert secret not in shown
                assert secret.encode() not in raw
                ours = [vars(record) for record in caplog.records if record.name.startswith("qanat")]
                assert all(secret not in str(fields) for fields in ours)


@pytest.mark.slow
@requirement("oauth-gateway:3", "oauth-gateway:4", "oauth:25")
async def test_ten_calls_with_an_expiring_token_make_one_refresh(tmp_path: Path) -> None:
    async with place(tmp_path, "B") as here:
        begun = await here.connect()
        page = await here.browser.sign_in(begun.json()["start_url"])
        assert "Signed in" in page.text
        first = await here.store.get(here.key)
        assert first is not None
        assert first.credential.refresh_token
        await here.change(expires_at=1.0)
        answers = await asyncio.gather(*(here.ask(f"word{number}") for number in range(10)))
        assert [answer.status_code for answer in answers] == [200] * 10
        assert here.network.shim.refreshes == 1
        await here.change(access_token="not.a.token")  # refused with 401: refreshed once more, and tried again
        assert (await here.ask()).status_code == 200
        assert here.network.shim.refreshes == 2
        for status, state in ((503, "active"), (400, "needs_sign_in")):
            here.network.shim.fail = status
            await here.change(expires_at=1.0)
            await here.ask()
            shown = (await here.http.get("/v1/vaults/alice")).json()["credentials"]
            assert shown[0]["status"] == state
        here.network.shim.fail = None
        gone = await here.http.delete("/v1/vaults/alice/connections", params={"url": here.url})
        assert gone.status_code == 200
        assert here.network.shim.requests[-1][0] == "/token/revocation"
        assert (await here.http.get("/v1/vaults/alice")).json()["credentials"] == []


@pytest.mark.slow
@requirement("oauth-gateway:5")
async def test_another_browser_cannot_finish_a_sign_in(tmp_path: Path) -> None:
    async with place(tmp_path, "B") as here:
        begun = await here.connect()
        page = await here.browser.http.get(begun.json()["start_url"])
        state = begun.json()["start_url"].rpartition("/")[2]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        async with httpx2.AsyncClient() as other:
            assert (await other.get(begun.json()["start_url"])).status_code == 404
            stolen = await other.get(f"{here.http.base_url}/oauth/callback", params={"state": state, "code": "x"})
        assert (stolen.status_code, "invalid_state" in stolen.text) == (400, True)
        for query in ({"state": "nonsense", "code": "x"}, {"state": state, "code": "x", "iss": "https://evil.example"}):
            wrong = await here.browser.http.get(f"{here.http.base_url}/oauth/callback", params=query)
            assert wrong.status_code == 400


@pytest.mark.slow
@requirement("oauth-gateway:6")
async def test_metadata_that_breaks_the_rules_stops_the_sign_in(tmp_path: Path) -> None:
    async with place(tmp_path, "B") as here:
        good = dict(here.network.shim.metadata or {})
        for change, code in (
            ({"issuer": f"{good['issuer']}/"}, "issuer_mismatch"),
            ({"code_challenge_methods_supported": ["plain"]}, "pkce_unsupported"),
            ({"registration_endpoint": None}, "registration_unsupported"),
            ({"registration_endpoint": "https://169.254.169.254/reg"}, "unreachable"),
            ({"authorization_endpoint": f"{good['issuer']}/auth"}, "unreachable_sign_in_page"),
            ({"authorization_endpoint": "http://sso.example/auth"}, "insecure_url"),
        ):
            here.network.shim.metadata = {**good, **change}
            refused = await here.connect()
            assert (refused.status_code, refused.json()["error"]["details"]["error_code"]) == (400, code)
        here.network.shim.metadata = {**good, "client_id_metadata_document_supported": True}
        begun = await here.connect()
        document = await here.http.get("/oauth/client")
        page = await here.browser.http.get(begun.json()["start_url"])
        assert "client_id=http%3A%2F%2F127.0.0.1" in page.text
        assert document.json()["client_id"].endswith("/oauth/client")
        assert not any(path == "/reg" for path, _ in here.network.shim.requests)


@pytest.mark.slow
@requirement("oauth-gateway:7", "oauth:20", "oauth:21", "oauth:22", "oauth:23")
async def test_tunnel_oauth_endpoints_must_be_ones_own(tmp_path: Path) -> None:
    async with place(tmp_path, "C") as here:
        network = here.network
        for changes in (
            {"token_endpoint": "https://evil.example/token"},
            {"token_endpoint": f"http://auth.{network.served.record.domain}/token"},
            {"token_endpoint": "https://auth.nobody.tunnel.example.net/token"},
            {"token_endpoint": f"https://evil{network.served.record.domain}/token"},
            {"authorization_endpoint": f"{network.auth}/auth"},
            {"registration_endpoint": None},
            {"scopes": "a  b"},
        ):
            refused = await here.connect(tunnel_oauth=tunnel_oauth(network, **changes))
            assert refused.status_code == 400, changes
        own = {"registration_endpoint": None, "client_id": "mine", "token_endpoint": f"{network.public}/token"}
        own_client = tunnel_oauth(network, **own)
        assert (await here.connect(tunnel_oauth=own_client)).status_code == 200
        assert network.shim.requests == []


def test_a_token_is_attached_where_it_belongs_and_nowhere_else() -> None:
    assert covers("https://a/mcp", "https://a/mcp/x")
    assert not covers("https://a/mcp", "https://a/mcp2")
    assert not covers("https://a/mcp", "https://b/mcp")
    assert not covers("https://a:444/mcp", "https://a/mcp")
    for path in ("/mcp/../x", "/mcp/%2e%2e/x", "/mcp/..%2fx", "/mcp/..\\x"):
        assert not covers("https://a/mcp", f"https://a{path}"), path
