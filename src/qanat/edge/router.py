"""Finds a way for a request: a connection of this node, else another node that has one.

Until the proxy has accepted the upgrade nothing of the client's has been handed on, so trying the next way is safe.
"""

from __future__ import annotations

import asyncio
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
        try:
            async with asyncio.timeout(self._open_timeout):
                await self._try_ways(record.uuid, head, make_end, local_only)
        except TimeoutError:
            raise ConnectorUnreachable from None

    async def _try_ways(
        self, tunnel: UUID, head: RequestHead, make_end: Callable[[str], StreamEnd], local_only: bool
    ) -> None:
        failure = await self._try_local(tunnel, head, make_end)
        if failure is None:
            return
        if local_only or self._others is None or not isinstance(failure, _WORTH_ANOTHER_NODE):
            raise failure
        for node in self._others.holders(tunnel)[:MAX_TRIES]:
            end = make_end("node")
            try:
                async with asyncio.timeout(self._open_timeout / 3):
                    await self._others.open_stream(node, tunnel, head, end)
                    answer = await end.answer
            except TimeoutError:
                failure = NodeUnreachable()
            except EdgeRefused as refused:
                failure = refused
            else:
                if answer.status == 101:
                    return
                failure = to_refusal(answer)
            finally:
                _give_up(end)
        raise failure

    async def _try_local(
        self, tunnel: UUID, head: RequestHead, make_end: Callable[[str], StreamEnd]
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
            refusal = await self._try_connection(connection, head, make_end("local"))
            if refusal is None:
                return None
            failure = refusal
            if isinstance(refusal, ProxyUnreachable | NoIngressRules):
                blind.add(connector)
            elif isinstance(refusal, UpgradeRefused):
                break  # the proxy has spoken
        return failure

    async def _try_connection(
        self, connection: EdgeConnection, head: RequestHead, end: StreamEnd
    ) -> EdgeRefused | None:
        try:
            connection.open_stream(head, end)
            end.connection = connection
        except ConnectionUnavailable:
            return TunnelBusy()
        try:
            async with asyncio.timeout(self._open_timeout / 3):
                answer = await end.answer
        except (ConnectorUnreachable, TimeoutError):
            return ConnectorUnreachable()
        else:
            return None if answer.status == 101 else to_refusal(answer)
        finally:
            _give_up(end)


_WORTH_ANOTHER_NODE = (TunnelNotConnected, TunnelBusy, ConnectorUnreachable, ProxyUnreachable, NoIngressRules)


def check_ready(record: TunnelRecord) -> None:
    """Raises the refusal for a tunnel that must not be served."""
    if record.archived:
        raise TunnelArchived
    if not record.ca_certificates:
        raise TunnelHasNoCertificate


def to_refusal(answer: ResponseHead) -> EdgeRefused:
    """Why an answer other than 101 means no."""
    if not answer.from_upstream:
        return ProxyUnreachable()
    # No header at all: not a proxy's answer, but that of a connector which has none to ask.
    return NoIngressRules() if answer.status == 503 and not answer.headers else UpgradeRefused()


def _give_up(end: StreamEnd) -> None:
    """Reset a stream that was not accepted, whatever the reason for leaving it."""
    accepted = end.answer.done() and not end.answer.cancelled() and end.answer.exception() is None
    if accepted and end.answer.result().status == 101:
        return
    if hasattr(end, "transport"):
        end.transport.abort()
