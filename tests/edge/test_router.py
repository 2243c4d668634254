"""Which way a stream takes when answers and the end of patience come together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from qanat.edge.connections import LiveConnections
from qanat.edge.errors import ConnectorUnreachable, EdgeRefused, NodeUnreachable
from qanat.edge.membership import Node
from qanat.edge.relay import StreamEnd
from qanat.edge.router import Router
from qanat.tunnel.connection import RequestHead, ResponseHead, StreamKind
from tests.support.edge import make_tunnel
from tests.support.proxy import until

PATIENCE = 0.03
HEAD = RequestHead(StreamKind.WEBSOCKET, "GET", "a1b2c3d4.example", "/")
ACCEPTED = ResponseHead(101)
Play = Callable[[StreamEnd], None]


def late(end: StreamEnd) -> None:
    """The answer is there when the loop comes back from something long, and so is the end of patience."""

    def stall() -> None:
        time.sleep(2 * PATIENCE)
        end.response_received(ACCEPTED)

    asyncio.get_running_loop().call_soon(stall)


def silent(_: StreamEnd) -> None:
    """Never answers."""


@dataclass
class Stage:
    """The ways there are, as they play; `aborted` and `accepted` count."""

    plays: list[Play]
    accepted: int = 0
    opened: int = 0
    aborted: int = 0
    ends: list[StreamEnd] = field(default_factory=list)

    def make_end(self, via: str) -> StreamEnd:
        def accept(end: StreamEnd, _: ResponseHead) -> None:
            self.accepted += 1

        end = StreamEnd(via, accept)
        self.ends.append(end)
        return end

    def play(self, end: StreamEnd) -> None:
        self.opened += 1
        end.transport = cast(Any, self)
        self.plays.pop(0)(end)

    def abort(self) -> None:
        self.aborted += 1


class Connections:
    """Connections of this node, each of another connector."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def streams(self, tunnel: UUID) -> int:
        return 0

    def of_tunnel(self, tunnel: UUID) -> list[object]:
        return list(self._stage.plays)

    def candidates(self, tunnel: UUID) -> list[Any]:
        return [Connection(self._stage) for _ in self._stage.plays]


class Connection:
    """One of them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.request = self.connector = cast(Any, self)
        self.connector_id = uuid4()

    def open_stream(self, head: RequestHead, end: StreamEnd) -> None:
        self._stage.play(end)


class Nodes:
    """Other nodes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def holders(self, tunnel: UUID) -> list[Node]:
        return [cast(Node, None) for _ in self._stage.plays]

    async def open_stream(self, node: Node, tunnel: UUID, head: RequestHead, end: StreamEnd) -> None:
        self._stage.play(end)
        await asyncio.sleep(0)


async def open_through(connections: Stage, nodes: Stage, make_end: Callable[[str], StreamEnd]) -> None:
    router = Router(
        cast(LiveConnections, Connections(connections)),
        open_timeout=PATIENCE,
        streams_per_tunnel=10,
        others=Nodes(nodes),
    )
    await router.open(make_tunnel().record, HEAD, make_end)


@pytest.mark.parametrize("where", ["connection", "node"])
async def test_an_answer_that_comes_with_the_end_of_patience_counts_and_no_other_way_is_tried(where: str) -> None:
    stage, none = Stage([late, late]), Stage([])
    await open_through(*((stage, none) if where == "connection" else (none, stage)), stage.make_end)
    assert (stage.opened, stage.accepted, stage.aborted) == (1, 1, 0)


@pytest.mark.parametrize(("where", "refusal"), [("connection", ConnectorUnreachable), ("node", NodeUnreachable)])
async def test_a_way_that_does_not_answer_is_reset_and_told_from_the_others(
    where: str, refusal: type[EdgeRefused]
) -> None:
    stage, none = Stage([silent, silent]), Stage([])
    with pytest.raises((refusal, ConnectorUnreachable)):
        await open_through(*((stage, none) if where == "connection" else (none, stage)), stage.make_end)
    assert (stage.opened, stage.accepted, stage.aborted) == (2, 0, 2)
    for end in stage.ends:
        end.response_received(ACCEPTED)  # too late: nobody is joined
    assert stage.accepted == 0


async def test_a_caller_that_leaves_resets_the_way_it_waited_for() -> None:
    stage = Stage([silent])
    opening = asyncio.create_task(open_through(stage, Stage([]), stage.make_end))
    await until(lambda: stage.opened == 1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert stage.aborted == 1
    stage.ends[0].response_received(ACCEPTED)
    assert stage.accepted == 0
