"""What waits for the control plane, and what becomes of what it will not take."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qanat.api.control_client import ControlUnavailable
from qanat.api.event_backlog import EventBacklog
from qanat.clock import SystemClock
from tests.api.test_control_client import client_of
from tests.support.asgi import serve_asgi

STATUSES = (503, 400, 204)


async def test_a_batch_that_is_refused_is_dropped_and_the_next_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    answers, told, dropped = iter(STATUSES), [], []

    async def take(request: Request) -> Response:
        told.append([event["kind"] for event in (await request.json())["events"]])
        return JSONResponse({}, next(answers))

    backlog = EventBacklog("edge-1", SystemClock(), lambda: dropped.append(1))
    app = Starlette(routes=[Route("/internal/v1/events", take, methods=["POST"])])
    async with serve_asgi(app) as url, client_of(url) as client:
        backlog.add(backlog.make("node_alive"))
        with pytest.raises(ControlUnavailable):
            await backlog.hand_over(client)
        backlog.add(backlog.make("canary"))
        await backlog.hand_over(client)
        assert (len(dropped), len(backlog)) == (1, 1)
        await backlog.hand_over(client)
    assert told == [["node_alive"], ["node_alive"], ["canary"]]
    assert "events dropped" in caplog.text
