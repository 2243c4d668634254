"""The client of the control plane's internal paths, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from qanat.api import control_client
from qanat.api.control_client import ControlClient, ControlUnavailable, ServiceKeyRefused
from qanat.api.internal import Event, EventBatch
from qanat.errors import QanatError
from tests.support.asgi import serve_asgi
from tests.support.edge import TIMEOUT, DictDirectory, make_tunnel
from tests.support.edge_processes import SERVICE_KEY, directory_over_http


def client_of(url: str) -> ControlClient:
    return ControlClient(url, SecretStr(SERVICE_KEY), timeout=TIMEOUT)


async def test_tunnels_changes_and_events_travel() -> None:
    directory = DictDirectory()
    tunnel = directory.add(make_tunnel())
    async with directory_over_http(directory) as url, client_of(url) as client:
        assert await client.by_uuid(tunnel.record.uuid) == tunnel.record
        assert await client.by_domain(tunnel.record.domain) == tunnel.record
        assert await client.by_uuid(uuid4()) is None
        changes = client.changes(None)
        assert (await anext(changes)).kind == "heartbeat"
        await directory.change(tunnel.record.model_copy(update={"archived": True}))
        change = await anext(changes)
        assert (change.kind, change.tunnel_uuid) == ("tunnel", tunnel.record.uuid)
        event = Event(time=datetime.now(UTC), kind="connector_lost", node="edge-1")
        await client.send_events(EventBatch(events=(event,)))
        assert directory.events == [event]
        await directory.stop()
        with pytest.raises(ControlUnavailable):
            await anext(changes)


Ask = Callable[[ControlClient], Awaitable[object]]
QUESTIONS: list[Ask] = [
    lambda client: client.by_domain("a.example"),
    lambda client: client.authenticate("credential"),
    lambda client: anext(client.changes(3)),
    lambda client: client.send_events(EventBatch(events=())),
]


async def answers(url_of: Response | None, ask: Ask) -> QanatError:
    """The error that an answer to every path becomes."""

    async def respond(request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {SERVICE_KEY}"
        assert url_of is not None
        return url_of

    app = Starlette(routes=[Route("/{path:path}", respond, methods=["GET", "POST"])])
    async with serve_asgi(app) as url, client_of(url) as client:
        with pytest.raises(QanatError) as error:
            await ask(client)
    return error.value


@pytest.mark.parametrize("ask", QUESTIONS)
async def test_a_refused_service_key_is_named(ask: Ask) -> None:
    refused = Response(status_code=401, headers={"x-qanat-service-key": "refused"})
    error = await answers(refused, ask)
    assert isinstance(error, ServiceKeyRefused)
    assert SERVICE_KEY not in f"{error}{error!r}"


@pytest.mark.parametrize("ask", QUESTIONS)
async def test_a_failing_control_plane_is_unavailable(ask: Ask) -> None:
    assert type(await answers(Response(status_code=500), ask)) is ControlUnavailable


@pytest.mark.parametrize("ask", QUESTIONS[:3])
async def test_an_answer_that_makes_no_sense_is_unavailable(ask: Ask) -> None:
    assert type(await answers(PlainTextResponse("[]\n"), ask)) is ControlUnavailable


async def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client_of(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            for ask in QUESTIONS:
                with pytest.raises(ControlUnavailable):
                    await ask(client)


async def test_an_unknown_credential_is_none_and_travels_only_in_the_body() -> None:
    seen: list[str] = []

    async def respond(request: Request) -> Response:
        seen.append((await request.body()).decode())
        return Response(status_code=401)

    app = Starlette(routes=[Route("/internal/v1/authenticate", respond, methods=["POST"])])
    async with serve_asgi(app) as url, client_of(url) as client:
        assert await client.authenticate("sk-secret") is None
    assert "sk-secret" in seen[0]


async def test_a_silent_changes_stream_counts_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "SILENCE", 0.1)
    over = asyncio.Event()

    async def lines() -> AsyncIterator[str]:
        yield '{"cursor": 1, "kind": "heartbeat"}\n'
        await over.wait()

    async def respond(_: Request) -> Response:
        return StreamingResponse(lines())

    async with serve_asgi(Starlette(routes=[Route("/internal/v1/changes", respond)])) as url, client_of(url) as client:
        changes = client.changes(None)
        assert (await anext(changes)).cursor == 1
        with pytest.raises(ControlUnavailable, match="Timeout"):
            await anext(changes)
        over.set()
