"""Finds a way for a request: a connection of this node, else another node that has one.

Until the proxy has accepted the upgrade nothing of the client's has been handed on, so trying the next way is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from qanat.api.internal import TunnelRecord
from qanat.edge.connections import LiveConnections
from qanat.edge.errors import (
    ConnectorUnreachable,
    EdgeRefused,
    NodeUnreachable,
    NoIngressRules,
    ProxyUnreachable,
    TooManyStreams,
    TunnelArchived,
    TunnelBusy,
    TunnelHasNoCertificate,
    TunnelNotConnected,
    UpgradeRefused,
)
from qanat.edge.membership import Node
from qanat.edge.relay import StreamEnd
from qanat.tunnel.connection import ConnectionUnavailable, EdgeConnection, RequestHead, ResponseHead

MAX_TRIES = 4
"""Ways tried for one request."""


class OtherNodes(Protocol):
    """The rest of the cluster, as the router needs it."""

    def holders(self, tunnel: UUID) -> Sequence[Node]:
        """Nodes with a connection of the tunnel, the best first."""
        ...

    async def open_stream(self, node: Node, tunnel: UUID, head: RequestHead, end: StreamEnd) -> None:
        """Open a stream through a node; `end` then hears the answer. Raises `EdgeRefused`."""
        ...


class Router:
    """Opens streams. `open_timeout` bounds a whole request in seconds; a single way gets a third of it."""

    def __init__(
        self,
        connections: LiveConnections,
        *,
        open_timeout: float,
        streams_per_tunnel: int,
        others: OtherNodes | None = None,
    ) -> None:
        self._connections, self._others = connections, others
        self._open_timeout, self._streams_per_tunnel = open_timeout, streams_per_tunnel

    async def open(
        self, record: TunnelRecord, head: RequestHead, make_end: Callable[[str], StreamEnd], *, local_only: bool = False
    ) -> None:
        """Open a stream; the end that was accepted is joined when this returns. `make_end` is told via what.

        Raises `EdgeRefused`, the most telling of what went wrong on the ways tried.
        """
        check_ready(record)
        tunnel, deadline = record.uuid, _now() + self._open_timeout
        failure = await self._try_local(tunnel, head, make_end, deadline)
        if failure is None:
            return
        if local_only or self._others is None or not isinstance(failure, _WORTH_ANOTHER_NODE):
            raise failure
        for node in self._others.holders(tunnel)[:MAX_TRIES]:
            if _now() >= deadline:
                raise ConnectorUnreachable
            failure = await self._try_node(self._others, node, tunnel, head, make_end("node"), deadline)
            if failure is None:
                return
        raise failure

    async def _try_local(
        self, tunnel: UUID, head: RequestHead, make_end: Callable[[str], StreamEnd], deadline: float
    ) -> EdgeRefused | None:
        """None when the stream is open, else why not."""
        if self._connections.streams(tunnel) >= self._streams_per_tunnel:
            return TooManyStreams()
        failure: EdgeRefused = TunnelBusy() if self._connections.of_tunnel(tunnel) else TunnelNotConnected()
        blind: set[UUID] = set()  # connectors that cannot reach their proxy
        for connection in self._connections.candidates(tunnel)[:MAX_TRIES]:
            connector = connection.request.connector.connector_id
            if connector in blind:
                continue
            if _now() >= deadline:
                return ConnectorUnreachable()
            refusal = await self._try_connection(connection, head, make_end("local"), deadline)
            if refusal is None:
                return None
            failure = refusal
            if isinstance(refusal, ProxyUnreachable | NoIngressRules):
                blind.add(connector)
            elif isinstance(refusal, UpgradeRefused):
                break  # the proxy has spoken
        return failure

    async def _try_connection(
        self, connection: EdgeConnection, head: RequestHead, end: StreamEnd, deadline: float
    ) -> EdgeRefused | None:
        try:
            connection.open_stream(head, end)
            end.connection = connection
        except ConnectionUnavailable:
            return TunnelBusy()
        try:
            return await _judge(end, self._end_of_way(deadline))
        except (ConnectorUnreachable, TimeoutError):
            return ConnectorUnreachable()
        finally:
            _give_up(end)

    async def _try_node(
        self, others: OtherNodes, node: Node, tunnel: UUID, head: RequestHead, end: StreamEnd, deadline: float
    ) -> EdgeRefused | None:
        until = self._end_of_way(deadline)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await others.open_stream(node, tunnel, head, end)
            return await _judge(end, until)
        except TimeoutError:
            return NodeUnreachable()
        except EdgeRefused as refused:
            return refused
        finally:
            _give_up(end)

    def _end_of_way(self, deadline: float) -> float:
        return min(_now() + self._open_timeout / 3, deadline)


_WORTH_ANOTHER_NODE = (TunnelNotConnected, TunnelBusy, ConnectorUnreachable, ProxyUnreachable, NoIngressRules)


def check_ready(record: TunnelRecord) -> None:
    """Raises the refusal for a tunnel that must not be served."""
    if record.archived:
        raise TunnelArchived
    if not record.ca_certificates:
        raise TunnelHasNoCertificate


async def _judge(end: StreamEnd, until: float) -> EdgeRefused | None:
    """What the answer says, None when it accepts. Raises `TimeoutError`, but never for an answer that is there.

    Whoever answered 101 has been joined to the client: a second way must not be tried then, however late it came.
    """
    await asyncio.wait((end.answer,), timeout=max(until - _now(), 0.0))
    if not end.answer.done():
        raise TimeoutError
    answer = end.answer.result()
    return None if answer.status == 101 else to_refusal(answer)


def to_refusal(answer: ResponseHead) -> EdgeRefused:
    """Why an answer other than 101 means no."""
    if not answer.from_upstream:
        return ProxyUnreachable()
    # No header at all: not a proxy's answer, but that of a connector which has none to ask.
    return NoIngressRules() if answer.status == 503 and not answer.headers else UpgradeRefused()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _give_up(end: StreamEnd) -> None:
    """Reset a stream that was not accepted, whatever the reason for leaving it."""
    end.answer.cancel()
    accepted = end.answer.done() and not end.answer.cancelled() and end.answer.exception() is None
    if accepted and end.answer.result().status == 101:
        return
    if hasattr(end, "transport"):
        end.transport.abort()
