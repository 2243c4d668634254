"""Tunnels that change while the gateway serves, control planes that go away, and refusals that look alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from qanat.api.internal import Change, Principal, TunnelRecord
from qanat.errors import QanatError
from qanat.gateway.access import Caller
from qanat.gateway.reach import Reach
from qanat.gateway.server import serve
from qanat.ids import WorkspaceID
from tests.gateway.test_tunnels import config
from tests.support.edge import DictDirectory
from tests.support.gateway import KEY, Wiki, principal, wiki_server
from tests.support.path import BASE, PathParts, Served, edge_running, tunnel_running
from tests.support.requirements import requirement

TIMEOUT = 20.0


@dataclass
class WatchedControl:
    """A control plane over the edge's directory, which tells of changes; it writes down what it is asked."""

    directory: DictDirectory
    principals: dict[str, Principal] = field(default_factory=lambda: {KEY: principal("a"), "sk-b": principal("b")})
    asked: list[str] = field(default_factory=list)
    followed: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def authenticate(self, credential: str, workspace_id: WorkspaceID | None = None) -> Principal | None:
        return self.principals.get(credential)

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        self.asked.append(domain)
        return await self.directory.by_domain(domain)

    async def changes(self, after: int | None) -> AsyncIterator[Change]:
        async for change in self.directory.changes(after):
            yield change
            (self.changed if change.kind == "tunnel" else self.followed).set()  # the gateway has dealt with it


@dataclass
class Place:
    """The gateway's way to tunnels, without the gateway."""

    reach: Reach
    control: WatchedControl
    parts: PathParts
    a: Served
    b: Served
    wiki: Wiki

    async def get(self, url: str, name: str = "a") -> int:
        """The status of a request to a server, as a caller of organization `name`."""
        caller = Caller(principal(name))
        async with self.reach.transport(caller, httpx2.URL(url).host) as transport:
            response = await transport.handle_async_request(httpx2.Request("GET", url))
            await response.aread()
            await response.aclose()
            return response.status_code

    async def refusal(self, url: str, name: str = "a") -> str:
        with pytest.raises(httpx2.ConnectError) as caught:
            await self.get(url, name)
        return str(caught.value)

    async def until_following(self) -> None:
        await asyncio.wait_for(self.control.followed.wait(), TIMEOUT)

    async def change(self, record: TunnelRecord) -> None:
        """Change a tunnel, and wait until the gateway has heard."""
        await self.parts.directory.change(record)
        await asyncio.wait_for(self.control.changed.wait(), TIMEOUT)


@asynccontextmanager
async def place_for(folder: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        wiki = await enter(wiki_server())
        parts = await enter(edge_running(folder, ["org_a", "org_b"]))
        routes = {"wiki": wiki.url.removesuffix("/mcp")}
        a = await enter(tunnel_running(parts, folder / "a", routes))
        b = await enter(tunnel_running(parts, folder / "b", routes, name="b", label="b5c6d7e8"))
        control = WatchedControl(parts.directory)
        reach = Reach(config(parts), control)
        stack.push_async_callback(reach.aclose)
        following = asyncio.create_task(reach.records.follow())
        try:
            yield Place(reach, control, parts, a, b, wiki)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_for(tmp_path) as place:
        yield place


@requirement("gateway:6")
@pytest.mark.parametrize("change", [{"archived": True}, {"ca_certificates": ()}])
async def test_a_change_at_the_control_plane_ends_what_goes_on(place: Place, change: dict[str, Any]) -> None:
    await place.until_following()
    url = place.a.url("wiki", "/nothing")
    caller = Caller(principal("a"))
    async with place.reach.transport(caller, httpx2.URL(url).host) as held:  # as a long conversation holds it
        assert (await held.handle_async_request(httpx2.Request("GET", url))).status_code == 404
        await place.change(place.a.record.model_copy(update=change))
        assert ("archived" if "archived" in change else "no CA certificate") in await place.refusal(url)
        with pytest.raises(httpx2.ConnectError):
            await held.handle_async_request(httpx2.Request("GET", url))


@requirement("gateway:6")
async def test_what_is_known_is_not_asked_again_while_changes_are_heard(place: Place) -> None:
    await place.until_following()
    for _ in range(5):
        await place.get(place.a.url("wiki", "/nothing"))
    assert place.control.asked == [place.a.record.domain]
    await place.change(place.a.record)
    assert len(place.control.asked) == 2  # its connections are open, so it is looked at again at once
    assert await place.get(place.a.url("wiki", "/nothing")) == 404


@requirement("gateway:6")
async def test_known_tunnels_work_on_while_the_control_plane_is_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qanat.gateway.records.BLIND_LIFETIME", 0.0)
    monkeypatch.setattr("qanat.gateway.records.FOLLOWED_LIFETIME", 0.0)
    await place.get(place.a.url("wiki", "/nothing"))
    await place.parts.directory.stop()
    assert await place.get(place.a.url("wiki", "/nothing")) == 404
    with pytest.raises(QanatError):
        await place.control.by_domain(place.a.record.domain)
    assert "control plane unavailable" in await place.refusal(place.b.url("wiki"), "b")


class CountingEdge:
    """Stands before the edge and counts who comes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.visits = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        onward = await asyncio.open_connection(*self._address)
        await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@requirement("gateway:1")
async def test_every_refusal_costs_the_same_steps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qanat.gateway.records.BLIND_LIFETIME", 0.0)
    record = place.a.record
    for label, change in (("dead", {"archived": True}), ("bare", {"ca_certificates": ()}), ("down", {})):
        changed = record.model_copy(update={**change, "domain": f"{label}.{BASE}", "uuid": uuid4()})
        place.parts.directory.tunnels[changed.uuid] = changed
    counting = CountingEdge(place.parts.server.client_address)
    listener = await asyncio.start_server(counting, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    settings = config(place.parts)
    assert settings.edge is not None
    settings = settings.model_copy(update={"edge": settings.edge.model_copy(update={"address": f"127.0.0.1:{port}"})})
    hosts = [place.b.record.domain, *(f"{label}.{BASE}" for label in ("nobody", "dead", "bare", "down"))]
    steps: dict[str, Any] = {}
    async with listener, serve(settings, control=place.control) as gateway:
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "mcp-client-2025-11-20"}
        async with httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=50) as http:
            for host in hosts:
                counting.visits = 0
                place.control.asked.clear()
                body = {
                    "model": "qanat-demo",
                    "max_tokens": 10,
                    "messages": [{"role": "user", "content": "Hello"}],
                    "mcp_servers": [{"type": "url", "url": f"https://wiki.{host}/mcp", "name": "wiki"}],
                    "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
                }
                answer = await http.post("/v1/messages", json=body)
                message = answer.json()["error"]["message"]
                steps[host] = (answer.status_code, message, len(place.control.asked), counting.visits)
    assert len(set(steps.values())) == 1, steps
    assert steps[hosts[0]][2:] == (1, 1)
    assert place.wiki.requests == []
