"""The playground through a whole tunnel: the call arrives, every hop is timed, and the one that fails is named."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from qanat import asgi
from qanat.samples import tickets
from qanat.samples.database import Database
from qanat.stack import Stack
from tests.support.live_page import live_page, to_text
from tests.support.planted import plant
from tests.support.requirements import requirement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SECTION = re.compile(r'<section class="card" aria-labelledby="outcome".*?</section>', re.DOTALL)


@dataclass
class Player:
    """Somebody signed in, with the playground open."""

    client: httpx2.AsyncClient
    tunnel_id: str
    csrf: str

    async def send(self, **fields: str) -> httpx2.Response:
        place = {"csrf": self.csrf, "tunnel": self.tunnel_id, "route": "tickets", "path": "/mcp"}
        return await self.client.post("/console/playground", data={**place, **fields}, timeout=90)

    async def outcome(self, **fields: str) -> str:
        """What the page says came of it."""
        found = SECTION.search((await self.send(**fields)).text)
        assert found is not None
        return to_text(found[0])


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def player(stack: Stack) -> AsyncIterator[Player]:
    async with live_page(stack) as page:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', (await page.client.get("/console/playground")).text)
        assert found is not None
        yield Player(page.client, stack.tunnel_id, found[1])


@requirement("console:playground:path")
async def test_a_listed_tool_is_called_and_every_hop_is_timed(stack: Stack, player: Player) -> None:
    listed = await player.outcome()
    assert "ok 6 tools" in listed
    called = await player.outcome(tool="get_ticket", **{"argument:integer:id": "4101"})
    assert "The tool answered" in called
    assert "Checkout returns 502" in called
    hops = re.findall(r"(edge|connector|proxy|upstream) [a-zA-Z(].*? [\d.]+ ms", called)
    assert hops == ["edge", "connector", "proxy", "upstream", "upstream", "upstream"]
    refused = await player.outcome(tool="get_ticket", **{"argument:integer:id": "1"})
    assert "error" in refused
    unknown = await player.outcome(tool="no_such_tool")
    assert "error" in unknown


@requirement("console:playground:path")
async def test_the_hop_that_fails_is_named(stack: Stack, player: Player) -> None:
    assert "proxy :" in await player.outcome(route="nowhere")
    await stack.stop_part("samples")
    assert "upstream : upstream_connect" in await player.outcome()
    await stack.stop_part("proxy")
    assert "proxy :" in await player.outcome()
    await stack.stop_part("connector")
    assert "connector :" in await player.outcome()
    await stack.stop_part("edge")
    assert "edge :" in await player.outcome()
    await stack.stop_part("gateway")
    answer = await player.send()
    assert (answer.status_code, "The gateway does not answer" in to_text(answer.text)) == (502, True)


async def test_a_tunnel_without_a_certificate_is_not_called(stack: Stack, player: Player) -> None:
    page = (await player.client.get(f"/console/tunnels/{stack.tunnel_id}")).text
    (revoke,) = [found for found in re.findall(r'action="([^"]+)"', page) if found.endswith("/revoke")]
    assert (await player.client.post(revoke, data={"csrf": player.csrf})).status_code == 303
    text = await player.outcome()
    while "no CA certificate" not in text:  # the gateway hears of it within moments
        text = await player.outcome()
    assert text.startswith("Tools of tickets/mcp client :")


async def test_a_token_reaches_the_server_and_without_it_the_page_says_so(stack: Stack, player: Player) -> None:
    await stack.stop_part("samples")
    port, token = int(stack.samples.urls["tickets"].rpartition(":")[2]), plant("server token")
    async with protected(port, token):
        assert "refused the credentials" in await player.outcome()
        assert "refused the credentials" in await player.outcome(token="another")
        answer = await player.send(token=token)
        assert "ok 6 tools" in to_text(answer.text)
        assert token not in answer.text


@asynccontextmanager
async def protected(port: int, token: str) -> AsyncIterator[None]:
    """The tickets server on that port, for bearers of one token."""
    database = Database("tickets")
    inner: ASGIApp = tickets.make_server(database).streamable_http_app(host="127.0.0.1")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (b"authorization", f"Bearer {token}".encode()) not in scope["headers"]:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await inner(scope, receive, send)

    try:
        async with asgi.serving(app, asgi.bind(f"127.0.0.1:{port}"), grace=1, lifespan="on"):
            yield
    finally:
        database.close()


async def test_only_a_ticket_of_the_console_opens_the_gateways_playground(stack: Stack) -> None:
    trial = {"url": stack.url("tickets")}
    async with httpx2.AsyncClient(base_url=stack.gateway.url, trust_env=False) as client:
        statuses = []
        for credential in ("", "Bearer guess", f"Bearer {stack.api_key.get_secret_value()}"):
            headers = {"authorization": credential} if credential else {}
            answer = await client.post("/internal/v1/playground", json=trial, headers=headers)
            statuses.append(answer.status_code)
        operator = f"Bearer {stack.control.credential.get_secret_value()}"
        answer = await client.post("/internal/v1/playground", json=trial, headers={"authorization": operator})
    assert [*statuses, answer.status_code] == [401, 401, 403, 403]
