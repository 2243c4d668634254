"""Corrupted conversations against the living ends: whatever a peer says, nothing breaks and nothing stays behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qanat.net.memory import memory_pair
from qanat.tunnel.connection import EdgeConnection, Registered, RegistrationRequest
from qanat.tunnel.http2 import ConnectorHTTP2, EdgeHTTP2
from qanat.wire import cloudflared_headers as marks
from qanat.wire.http2 import HTTP2Connection
from tests.fuzz.runner import Fuzzer
from tests.fuzz.targets import Target
from tests.support.http2 import GET, POST
from tests.support.requirements import requirement
from tests.support.tunnel import TIMEOUT, Admission, Client, Upstreams, http_request, websocket_request
from tests.support.vectors import load

INPUTS = 150
SESSION = load("http2", "cloudflared_session").data


class Hospitable(Admission):
    """Admits everybody, and opens streams at once."""

    async def register(self, request: RegistrationRequest) -> Registered:
        return Registered(request.tunnel_uuid, "test-edge")

    def connection_ready(self, connection: EdgeConnection) -> None:
        super().connection_ready(connection)
        for _ in range(5):
            connection.open_stream(http_request(), Client())
        connection.open_stream(websocket_request(), Client())


def edge_session() -> bytes:
    """What an edge says that opens every kind of stream."""
    edge = HTTP2Connection(True)
    edge.open_stream((*GET, *marks.marker(marks.MarkedKind.CONTROL)))
    for kind in (marks.MarkedKind.WEBSOCKET, marks.MarkedKind.TCP, marks.MarkedKind.HTTP):
        stream = edge.open_stream((*GET, *marks.marker(kind), ("sec-websocket-key", "a")))
        edge.send_data(stream, b"hello" * 100)
        edge.end_stream(stream)
    stream = edge.open_stream((*POST, *marks.marker(marks.MarkedKind.CONFIGURATION)))
    edge.send_data(stream, b'{"version": 1, "config": {}}')
    edge.end_stream(stream)
    edge.open_stream(POST)
    edge.ping(b"12345678")
    edge.go_away()
    return edge.data_to_send()


def mutations(sample: bytes) -> list[bytes]:
    """The sample, and many broken ones."""
    found = [sample]
    target = Target(lambda data, cuts: found.append(data), (sample,))
    Fuzzer("tunnel-ends", target, seed=1).run_times(INPUTS)
    return found


async def listen(end: EdgeHTTP2 | ConnectorHTTP2, data: bytes) -> None:
    """Let an end hear `data` in a few pieces, then lose the connection."""
    transport, _ = memory_pair(end, asyncio.Protocol())
    step = len(data) // 7 + 1
    for start in range(0, len(data), step):
        if not transport.is_closing():
            end.data_received(data[start : start + step])
        for _ in range(4):
            await asyncio.sleep(0)
    transport.abort()
    async with asyncio.timeout(TIMEOUT):
        await end.wait_closed()
    assert not end.streams


@pytest.fixture
async def troubles() -> list[dict[str, Any]]:
    """What the loop's exception handler is told."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: found.append(context))
    return found


@requirement("wire:garbage")
async def test_an_edge_survives_whatever_a_connector_says(
    troubles: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    admissions = []
    for data in mutations(SESSION):
        admissions.append(Hospitable())
        await listen(EdgeHTTP2(admissions[-1]), data)
    assert troubles == []
    assert not [record for record in caplog.records if record.exc_info]
    registered = [admission for admission in admissions if "ready" in admission.told]
    assert len(registered) > INPUTS / 3  # else this tests little
    assert all(admission.told[-1] == "lost" for admission in registered)


@requirement("wire:garbage")
async def test_a_connector_survives_whatever_an_edge_says(
    troubles: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    handlers = []
    for data in mutations(edge_session()):
        handlers.append(Upstreams())
        await listen(ConnectorHTTP2(handlers[-1]), data)
    assert troubles == []
    assert not [record for record in caplog.records if record.exc_info]
    assert sum(len(handler.heads) for handler in handlers) > INPUTS
