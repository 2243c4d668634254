"""Finding a way while the clock runs out: an answer that came first stands, and whatever lost is reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from qanat.edge.connections import LiveConnections
from qanat.edge.errors import ConnectorUnreachable, EdgeRefused, NodeUnreachable
from qanat.edge.membership import Node
from qanat.edge.relay import StreamEnd
from qanat.edge.router import Router
from qanat.net.memory import memory_pair
from qanat.net.transport import Receiver
from qanat.tunnel.connection import IncomingStream, RequestHead, ResponseHead, StreamKind
from qanat.tunnel.memory import MemoryConnector
from tests.support.edge import TIMEOUT, make_tunnel
from tests.support.jumping_clock import JumpingLoop, run_jumping
from tests.support.recorder import Recorder
from tests.support.requirements import requirement
from tests.support.tunnel import ACCEPTED, Admission, registration

HEAD = RequestHead(StreamKind.WEBSOCKET, "GET", "tickets.example.net", "/")
OPEN_TIMEOUT = 15.0
A_WAY, A_REQUEST = 6.0, 16.0
"""Seconds of a stall that are too long for one way, and for a whole request."""


class Stalling:
    """A connector whose yes arrives while the loop stands still: it and the time limit are met in one turn."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        asyncio.get_running_loop().call_soon(self._stall, stream)
        return Recorder()

    def _stall(self, stream: IncomingStream) -> None:
        the_loop().jump(self._seconds)
        stream.respond(ACCEPTED)


class Late:
    """A connector that accepts when `accept` is called."""

    def __init__(self) -> None:
        self.streams: list[IncomingStream] = []
        self.asked = asyncio.Event()

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        self.streams.append(stream)
        self.asked.set()
        return Recorder()

    def accept(self) -> None:
        for stream in self.streams:
            stream.respond(ACCEPTED)


class OneNode:
    """The rest of a cluster: one node with one connection."""

    def __init__(self, connector: MemoryConnector) -> None:
        self._connector = connector

    def holders(self, tunnel: UUID) -> Sequence[Node]:
        return [Node("id", "edge-2", "localhost", 0)]

    async def open_stream(self, node: Node, tunnel: UUID, head: RequestHead, end: StreamEnd) -> None:
        self._connector.edge.open_stream(head, end)


class Request:
    """A request on its way, of a client that notes what it hears."""

    def __init__(self) -> None:
        self.client = Recorder()
        self._transport, _ = memory_pair(Recorder(), self.client)
        self.ends: list[StreamEnd] = []
        self.accepted: list[StreamEnd] = []

    def make_end(self, via: str) -> StreamEnd:
        self.ends.append(StreamEnd(via, self._accept))
        return self.ends[-1]

    def _accept(self, end: StreamEnd, head: ResponseHead) -> None:
        self.accepted.append(end)
        end.join(self._transport)


async def connected(handler: Callable[[], Stalling | Late], count: int) -> list[MemoryConnector]:
    connectors = [MemoryConnector(Admission(), handler()) for _ in range(count)]
    for index, connector in enumerate(connectors):
        await connector.register(registration(index))
    return connectors


def router_of(connectors: list[MemoryConnector], others: OneNode | None = None) -> Router:
    live = LiveConnections()
    for connector in connectors:
        live.add(connector.edge)
    return Router(live, open_timeout=OPEN_TIMEOUT, streams_per_tunnel=10, others=others)


RECORD = make_tunnel().record.model_copy(update={"uuid": registration().tunnel_uuid})


def the_loop() -> JumpingLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    return loop


async def all_reset(connectors: list[MemoryConnector]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while any(connector.open_streams for connector in connectors):  # noqa: ASYNC110 - no event of its own
            await asyncio.sleep(0)


@requirement("edge:endings")
@pytest.mark.parametrize("stall", [A_WAY, A_REQUEST])
@pytest.mark.parametrize("via", ["local", "node"])
def test_an_answer_that_comes_with_the_end_of_its_time_is_taken_once(stall: float, via: str) -> None:
    async def run() -> None:
        connectors = await connected(lambda: Stalling(stall), 2 if via == "local" else 1)
        router = router_of(connectors) if via == "local" else router_of([], OneNode(connectors[0]))
        request = Request()
        await router.open(RECORD, HEAD, request.make_end)
        assert [end.via for end in request.ends] == [via]
        assert request.accepted == request.ends
        assert sum(connector.open_streams for connector in connectors) == 1

    run_jumping(run())


@pytest.mark.parametrize(("via", "refusal"), [("local", ConnectorUnreachable), ("node", NodeUnreachable)])
def test_an_answer_that_comes_too_late_joins_nothing(via: str, refusal: type[EdgeRefused]) -> None:
    async def run() -> None:
        late = Late()
        connectors = await connected(lambda: late, 1)
        router = router_of(connectors) if via == "local" else router_of([], OneNode(connectors[0]))
        request = Request()
        the_loop().jumping = True
        with pytest.raises(refusal):
            await router.open(RECORD, HEAD, request.make_end)
        the_loop().jumping = False
        late.accept()
        await all_reset(connectors)
        assert request.accepted == []

    run_jumping(run())


def test_a_request_whose_ways_are_all_silent_ends_in_its_time() -> None:
    async def run() -> None:
        connectors = await connected(Late, 4)
        request = Request()
        the_loop().jumping = True
        with pytest.raises(ConnectorUnreachable):
            await router_of(connectors).open(RECORD, HEAD, request.make_end)
        the_loop().jumping = False
        assert len(request.ends) >= 3
        await all_reset(connectors)

    run_jumping(run())


@requirement("edge:endings")
def test_a_client_that_leaves_while_it_waits_leaves_no_stream() -> None:
    async def run() -> None:
        late = Late()
        connectors = await connected(lambda: late, 2)
        request = Request()
        opening = asyncio.create_task(router_of(connectors).open(RECORD, HEAD, request.make_end))
        await late.asked.wait()
        await asyncio.sleep(0)
        opening.cancel()
        late.accept()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await all_reset(connectors)
        assert request.accepted == []

    run_jumping(run())
