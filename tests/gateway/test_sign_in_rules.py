"""The rules of a sign-in, against servers that break them: discovery, registration, scopes, redirects, addresses."""

from __future__ import annotations

import asyncio
import gzip
import html
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from qanat.gateway.oauth.model import Credential, Endpoints, OAuthClient, granted
from qanat.gateway.oauth.store import Key, Store, Stored
from tests.support.gateway import KEY, running_gateway
from tests.support.oauth_stub import AuthStub, auth_stub
from tests.support.requirements import requirement

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "mcp-client-2025-11-20"}
pytestmark = pytest.mark.slow
TIMEOUT = 20.0
PROTECTED = "/.well-known/oauth-protected-resource"
SERVER = "/.well-known/oauth-authorization-server"


@dataclass
class Desk:
    """A gateway with vaults, and the stub it signs in at."""

    http: httpx2.AsyncClient
    stub: AuthStub
    store: Store

    @property
    def key(self) -> Key:
        return Key("org_a", "wrkspc_a", "alice", self.stub.server)

    async def stored(self) -> Stored:
        found = await self.store.get(self.key)
        assert found is not None
        return found

    async def change(self, **fields: Any) -> None:
        """Alter the stored credential, as another gateway would."""
        stored = await self.stored()
        assert await self.store.replace(self.key, stored.credential.model_copy(update=fields), stored.version)

    async def sign_in(self) -> None:
        self.stub.publish()
        assert (await self.back(await self.open())).status_code == 200

    async def connect(self, **fields: Any) -> httpx2.Response:
        return await self.http.post("/v1/vaults/alice/connections", json={"url": self.stub.server, **fields})

    async def refusal(self, **fields: Any) -> str:
        """The code a sign-in is refused with."""
        refused = await self.connect(**fields)
        assert refused.status_code == 400, refused.text
        return str(refused.json()["error"]["details"]["error_code"])

    async def open(self, **fields: Any) -> dict[str, str]:
        """Begin a sign-in and open its page: what the browser is to bring to the authorization server."""
        begun = await self.connect(**fields)
        assert begun.status_code == 200, begun.text
        page = await self.http.get(httpx2.URL(begun.json()["start_url"]).path)
        link = re.search(r'href="([^"]+)"', page.text)
        assert link is not None
        return dict(httpx2.URL(html.unescape(link[1])).params)

    async def back(self, asked: dict[str, str], **changes: str) -> httpx2.Response:
        """The browser comes back; the stub grants whatever scope stands in the code."""
        query = {"state": asked["state"], "code": asked.get("scope", "nothing"), **changes}
        return await self.http.get("/oauth/callback", params=query)

    async def ask(self) -> httpx2.Response:
        body = {
            "model": "qanat-demo",
            "max_tokens": 1000,
            "messages": [{"role": "user", "content": "Search the wiki for 'qanats'"}],
            "mcp_servers": [{"type": "url", "url": self.stub.server, "name": "wiki"}],
            "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
        }
        return await self.http.post("/v1/messages", json=body, headers={"qanat-vault": "alice"})

    async def row(self) -> dict[str, Any]:
        """What the vault shows of its one credential."""
        rows = (await self.http.get("/v1/vaults/alice")).json()["credentials"]
        assert len(rows) == 1
        return dict(rows[0])


@asynccontextmanager
async def gateway_for(folder: Path, stub: AuthStub, **changes: Any) -> AsyncIterator[Desk]:
    (folder / "master").write_text("ab" * 32)
    oauth = {
        "public_url": "http://gateway.example",
        "database": folder / "vaults.db",
        "key_file": folder / "master",
        "allowed_ips": ["127.0.0.1/32"],
        "http_hosts": ["*"],
    }
    async with (
        running_gateway(oauth=oauth, **changes) as gateway,
        httpx2.AsyncClient(base_url=gateway.url, headers=HEADERS, timeout=50) as http,
    ):
        yield Desk(http, stub, Store(folder / "vaults.db", bytes.fromhex("ab" * 32)))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(auth_stub())
        yield await stack.enter_async_context(gateway_for(tmp_path, stub))


@requirement("oauth:12")
async def test_every_request_names_the_resource_it_is_for(desk: Desk) -> None:
    desk.stub.publish()
    asked = await desk.open()
    assert asked["resource"] == desk.stub.server
    desk.stub.token_answer = JSONResponse(
        {"access_token": "short", "token_type": "Bearer", "refresh_token": "again", "expires_in": -1}
    )
    assert (await desk.back(asked)).status_code == 200
    await desk.ask()
    assert [form["grant_type"] for form in desk.stub.forms[:2]] == ["authorization_code", "refresh_token"]
    assert {form["resource"] for form in desk.stub.forms} == {desk.stub.server}


@requirement("oauth:3", "oauth:4", "oauth:5")
@pytest.mark.parametrize(
    ("resource", "fits"),
    [("", True), ("/mcp", True), ("/mc", False), ("/mcp/deeper", False), ("https://other.example/mcp", False)],
)
async def test_a_resource_must_be_the_server_or_lie_above_it(desk: Desk, resource: str, fits: bool) -> None:
    desk.stub.publish()
    document = desk.stub.documents[f"{PROTECTED}/mcp"]
    assert isinstance(document, dict)
    document["resource"] = resource if resource.startswith("https") else desk.stub.url + resource
    if fits:
        await desk.open()
    else:
        assert await desk.refusal() == "resource_mismatch"


@requirement("oauth:7")
async def test_three_places_hold_the_metadata_of_an_issuer_with_a_path(desk: Desk) -> None:
    desk.stub.publish("/tenant")
    metadata = desk.stub.documents.pop(f"{SERVER}/tenant")
    places = [
        f"{SERVER}/tenant",
        "/.well-known/openid-configuration/tenant",
        "/tenant/.well-known/openid-configuration",
    ]
    assert await desk.refusal() == "no_metadata"
    assert desk.stub.asked[-3:] == places
    desk.stub.documents[places[2]] = metadata
    await desk.open()
    assert desk.stub.asked[-3:] == places


@requirement("oauth:8", "oauth:9")
@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("issuer", "/one/", "issuer_mismatch"),
        ("code_challenge_methods_supported", ["plain"], "pkce_unsupported"),
        ("code_challenge_methods_supported", None, "pkce_unsupported"),
    ],
)
async def test_metadata_that_cannot_be_trusted_is_refused(desk: Desk, field: str, value: Any, code: str) -> None:
    desk.stub.publish(**{field: desk.stub.url + value if field == "issuer" else value})
    assert await desk.refusal() == code
    assert desk.stub.registered == []


@requirement("oauth:10")
@pytest.mark.parametrize("status", [503, 429])
async def test_metadata_that_is_unavailable_is_not_taken_for_absent(desk: Desk, status: int) -> None:
    desk.stub.documents = {f"{PROTECTED}/mcp": status, SERVER: desk.stub.metadata()}
    assert await desk.refusal() == "metadata_unavailable"
    assert SERVER not in desk.stub.asked


@requirement("oauth:11")
async def test_without_any_metadata_of_the_resource_its_origin_is_asked(desk: Desk) -> None:
    desk.stub.documents = {SERVER: desk.stub.metadata()}
    asked = await desk.open()
    assert asked["resource"] == desk.stub.server
    assert desk.stub.asked == [f"{PROTECTED}/mcp", PROTECTED, SERVER]


@requirement("oauth:13", "oauth:14")
async def test_a_redirect_counts_once_and_from_the_right_server_only(desk: Desk) -> None:
    desk.stub.publish(authorization_response_iss_parameter_supported=True)
    issuer = f"{desk.stub.url}/one"
    for changes, code in (
        ({"state": "another"}, "invalid_state"),
        ({}, "missing_issuer"),
        ({"iss": f"{issuer}/"}, "issuer_mismatch"),
        ({"iss": issuer, "error": "access_denied"}, "access_denied"),
    ):
        answer = await desk.back(await desk.open(), **changes)
        assert (answer.status_code, code in answer.text) == (400, True), answer.text
    assert desk.stub.forms == []
    asked = await desk.open()
    assert (await desk.back(asked, iss=issuer)).status_code == 200
    assert "invalid_state" in (await desk.back(asked, iss=issuer)).text
    asked = await desk.open()
    desk.http.cookies.clear()  # another browser, whoever is in front of it
    assert "invalid_state" in (await desk.back(asked, iss=issuer)).text


@requirement("oauth:15")
async def test_a_client_document_spares_the_registration(desk: Desk) -> None:
    desk.stub.publish(client_id_metadata_document_supported=True)
    assert (await desk.open())["client_id"] == "http://gateway.example/oauth/client"
    assert desk.stub.registered == []


@requirement("oauth:16")
async def test_a_registration_is_used_again_even_after_a_restart_and_never_at_another_issuer(
    desk: Desk, tmp_path: Path
) -> None:
    desk.stub.publish("/one")
    assert [(await desk.open())["client_id"] for _ in range(2)] == ["client1", "client1"]
    async with gateway_for(tmp_path, desk.stub) as restarted:
        assert (await restarted.open())["client_id"] == "client1"
    desk.stub.publish("/two")
    assert (await desk.open())["client_id"] == "client2"
    assert desk.stub.registered == ["/one/register", "/two/register"]
    assert b"client1" not in (tmp_path / "vaults.db").read_bytes()


@requirement("oauth:16")
async def test_a_server_that_forgot_us_is_asked_to_register_us_again(desk: Desk) -> None:
    desk.stub.publish()
    desk.stub.token_answer = JSONResponse({"error": "invalid_client"}, 401)
    answer = await desk.back(await desk.open())
    assert (answer.status_code, "invalid_client" in answer.text) == (400, True)
    assert (await desk.open())["client_id"] == "client2"


@requirement("oauth:17")
@pytest.mark.parametrize("method", ["client_secret_basic", "private_key_jwt", "made_up"])
async def test_a_registration_that_cannot_be_used_ends_before_the_browser_opens(desk: Desk, method: str) -> None:
    desk.stub.publish()
    desk.stub.registration = {"token_endpoint_auth_method": method}
    assert await desk.refusal() == "registration_unusable"


@requirement("oauth:18")
async def test_a_tool_that_wants_another_scope_makes_the_next_sign_in_ask_for_both(desk: Desk) -> None:
    desk.stub.publish()
    desk.stub.challenge = 'Bearer scope="a"'
    asked = await desk.open()
    assert asked["scope"] == "a"
    assert (await desk.back(asked)).status_code == 200
    assert "search ran" in (await desk.ask()).text
    desk.stub.call_scope = "b"
    refused = await desk.ask()
    assert (refused.status_code, '"is_error":true' in refused.text) == (200, True), refused.text
    row = await desk.row()
    assert (row["status"], row["scope"], row["missing_scope"]) == ("needs_sign_in", "a", "b")
    asked = await desk.open()
    assert asked["scope"] == "a b"
    assert (await desk.back(asked)).status_code == 200
    assert "search ran" in (await desk.ask()).text
    assert (await desk.row())["status"] == "active"


@requirement("oauth:26")
async def test_a_refused_refresh_needs_the_user_and_an_unavailable_one_does_not(desk: Desk) -> None:
    desk.stub.publish()
    short = {"access_token": "short", "token_type": "bearer", "refresh_token": "again", "expires_in": -1}
    desk.stub.token_answer = JSONResponse(short)
    assert (await desk.back(await desk.open())).status_code == 200
    for status, state in ((503, "active"), (429, "active"), (400, "needs_sign_in")):
        desk.stub.token_answer = JSONResponse({"error": "invalid_grant"}, status)
        await desk.change()  # a credential that changed is tried at once
        await desk.ask()
        assert (await desk.row())["status"] == state


class Witness:
    """A listener at an address that must not be dialled; it counts who came."""

    def __init__(self) -> None:
        self.visits = 0

    def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


@requirement("oauth:27")
async def test_metadata_at_an_inner_address_is_never_fetched(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = Witness()
    listener = await asyncio.start_server(witness, "127.0.0.2", 0)
    port = listener.sockets[0].getsockname()[1]
    inner = {"loopback.example": "127.0.0.2", "cloud.example": "169.254.169.254", "mapped.example": "::ffff:127.0.0.2"}
    inner |= {"nat64.example": "64:ff9b::169.254.169.254", "6to4.example": "2002:a9fe:a9fe::1"}
    resolve = socket.getaddrinfo

    def answer(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve(inner.get(host, host), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    async with listener:
        for host in ("127.0.0.2", "169.254.169.254", "[::1]", *inner):
            desk.stub.challenge = f'Bearer resource_metadata="http://{host}:{port}/metadata"'
            assert await desk.refusal() == "unreachable"
        desk.stub.challenge = "Bearer"
        for field in ("registration_endpoint", "token_endpoint"):
            desk.stub.publish(**{field: f"http://loopback.example:{port}/x"})
            if field == "registration_endpoint":
                assert await desk.refusal() == "unreachable"
            else:
                assert "unreachable" in (await desk.back(await desk.open())).text
    assert witness.visits == 0


@requirement("oauth:28")
async def test_a_token_endpoint_that_redirects_gets_nothing_more(desk: Desk) -> None:
    desk.stub.publish()
    desk.stub.token_answer = RedirectResponse(f"{desk.stub.url}/elsewhere", 302)
    answer = await desk.back(await desk.open())
    assert (answer.status_code, "status_302" in answer.text) == (400, True)
    assert (len(desk.stub.forms), desk.stub.strays) == (1, [])
    assert (await desk.http.get("/v1/vaults/alice")).json()["credentials"] == []


@pytest.mark.parametrize("noted", [{"missing_scope": "wiki.write"}, {"needs_sign_in": True}])
async def test_what_is_noted_during_a_refresh_does_not_lose_its_tokens(desk: Desk, noted: dict[str, Any]) -> None:
    await desk.sign_in()
    await desk.change(expires_at=1.0)
    fresh = {"access_token": "fresh", "token_type": "Bearer", "refresh_token": "rotated", "expires_in": 3600}
    desk.stub.token_answer, desk.stub.meanwhile = JSONResponse(fresh), lambda: desk.change(**noted)
    desk.stub.granted["fresh"] = ""
    assert (await desk.ask()).status_code == 200
    credential = (await desk.stored()).credential
    assert (credential.access_token, credential.refresh_token) == ("fresh", "rotated")
    assert (credential.needs_sign_in, credential.missing_scope) == (False, noted.get("missing_scope"))


async def test_a_refresh_that_outlasts_its_caller_does_not_lose_its_tokens(tmp_path: Path) -> None:
    fresh = {"access_token": "fresh", "token_type": "Bearer", "refresh_token": "rotated", "expires_in": 3600}
    async with auth_stub() as stub, gateway_for(tmp_path, stub, limits={"list_tools": "300ms"}) as desk:
        await desk.sign_in()
        await desk.change(expires_at=1.0)
        asking = asyncio.create_task(desk.ask())
        stub.token_answer, stub.meanwhile = JSONResponse(fresh), lambda: asyncio.wait([asking])
        assert (await asking).status_code == 400
        async with asyncio.timeout(TIMEOUT):
            while (await desk.stored()).credential.refresh_token != "rotated":  # noqa: ASYNC110 - a store tells nobody
                await asyncio.sleep(0.01)


async def test_a_later_grant_wins_over_a_refresh_that_was_under_way(desk: Desk) -> None:
    await desk.sign_in()
    await desk.change(expires_at=1.0)
    desk.stub.meanwhile = lambda: desk.change(access_token="theirs", refresh_token="new", expires_at=None)
    desk.stub.granted["theirs"] = ""
    assert (await desk.ask()).status_code == 200
    assert (await desk.stored()).credential.access_token == "theirs"


@pytest.mark.parametrize("status", [503, 302])
async def test_callers_do_not_queue_up_for_a_refresh_that_cannot_be_had(desk: Desk, status: int) -> None:
    await desk.sign_in()
    await desk.change(expires_at=1.0)
    asked = len(desk.stub.forms)
    desk.stub.token_answer = Response(status_code=status, headers={"location": "/elsewhere"})
    answers = await asyncio.gather(*(desk.ask() for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5, "the token is still taken"
    assert len(desk.stub.forms) == asked + 1
    assert (await desk.row())["status"] == "active"


async def test_one_browser_may_be_at_two_sign_ins(desk: Desk) -> None:
    desk.stub.publish()
    first, second = await desk.open(), await desk.open()
    assert [(await desk.back(asked)).status_code for asked in (first, second)] == [200, 200]


@pytest.mark.parametrize("address", ["https://[::", "http://a b/", "https://" + "x" * 70_000])
async def test_an_address_that_is_none_ends_the_sign_in(desk: Desk, address: str) -> None:
    desk.stub.challenge = f'Bearer resource_metadata="{address}"'
    assert await desk.refusal() in ("invalid_url", "unreachable")


async def test_compressed_metadata_is_not_unpacked(desk: Desk) -> None:
    desk.stub.publish()
    bomb = gzip.compress(b" " * 1_000_000)
    desk.stub.packed = Response(bomb, headers={"content-encoding": "gzip", "content-type": "application/json"})
    assert await desk.refusal() == "unreachable"


@pytest.mark.parametrize(
    ("answer", "lifetime", "refresh_token"),
    [
        ({"expires_in": "3600", "refresh_token": "r"}, 3600.0, "r"),
        ({"expires_in": 1e999, "refresh_token": 7, "scope": ["a"]}, None, None),
        ({"expires_in": 10**400}, None, None),
        ({"expires_in": "soon"}, None, None),
        ({"expires_in": True}, None, None),
        ({}, None, None),
    ],
)
def test_odd_fields_of_a_grant_count_as_not_said(
    answer: dict[str, Any], lifetime: float | None, refresh_token: str | None
) -> None:
    endpoints = Endpoints("https://a", "https://a/authorize", "https://a/token", scope="wiki.read")
    credential = granted(endpoints, OAuthClient("c"), {"access_token": "t", "token_type": "Bearer", **answer}, 1000.0)
    assert credential.expires_at == (None if lifetime is None else 1000.0 + lifetime)
    assert (credential.refresh_token, credential.scope) == (refresh_token, "wiki.read")
    assert Credential.model_validate_json(credential.model_dump_json()) == credential
