"""One client connection after its TLS handshake: read the upgrade, find a way, join the two ends.

The same serves other nodes of the cluster that relay for their clients; `Guest` tells which it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qanat.api.internal import TunnelRecord
from qanat.edge.admission import ClientIdentity
from qanat.edge.errors import ClientNotMapped, EdgeDraining, EdgeFailed, EdgeRefused, RequestTimeout, UnknownHost
from qanat.edge.relay import ClientEnd, StreamEnd
from qanat.edge.request import UpgradeParser, UpgradeRequest, response_101, response_error, split_host
from qanat.logger import get_logger
from qanat.net.transport import Receiver, Transport
from qanat.tunnel.connection import ResponseHead
from qanat.wire.websocket import INTERNAL_ERROR

if TYPE_CHECKING:
    from qanat.edge.sessions import Sessions

_log = get_logger("qanat.edge")


@dataclass(frozen=True, slots=True)
class Guest:
    """Who is at the other end: a client, or (without an identity) a node of our cluster."""

    address: str
    identity: ClientIdentity | None

    @property
    def name(self) -> str:
        """For logs and limits."""
        return "node" if self.identity is None else self.identity.name


class ClientSession(Receiver):
    """Serves one request; the connection ends with it."""

    transport: Transport
    guest: Guest

    def __init__(self, sessions: Sessions, address: str, *, is_node: bool = False) -> None:
        self._sessions, self._address, self._is_node = sessions, address, is_node
        self._parser: UpgradeParser | None = UpgradeParser(sessions.limits.header_bytes)
        """Until the request is there: an open session holds nothing of how it began."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._lost = False
        self._early = b""
        self._started = 0.0
        self.tunnel: TunnelRecord | None = None
        self.stream: StreamEnd | None = None
        self.client_end: ClientEnd | None = None

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self.guest = self._sessions.guest(transport, self._address, self._is_node)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._sessions.limits.header_timeout.total_seconds(), self._too_slow)
        self._sessions.add(self)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._early += data
            return
        try:
            request = self._parser.feed(data)
        except EdgeRefused as refusal:
            self.refuse(refusal)
            return
        if request is not None:
            self._stop_timer()
            self.transport.pause_reading()
            self._early, self._parser = request.rest, None
            self._task = self._sessions.spawn(self._serve(request))

    def eof_received(self) -> bool | None:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._sessions.remove(self)

    async def _serve(self, request: UpgradeRequest) -> None:
        self._started = asyncio.get_running_loop().time()
        try:
            self._sessions.check_admission(self.guest, request)
            self.tunnel = await self._find_tunnel(request)
            head = request.to_stream_head()
            await self._sessions.router.open(self.tunnel, head, self._make_end, local_only=self._is_node)
        except EdgeRefused as refusal:
            self.refuse(refusal, request)
        except Exception:
            _log.exception("session failed", client=self.guest.name, address=self.guest.address)
            if self.stream is None:
                self.refuse(EdgeFailed(), request)
            else:
                self.cut(INTERNAL_ERROR, "edge_failed at edge")
        finally:
            self._task = None

    async def _find_tunnel(self, request: UpgradeRequest) -> TunnelRecord:
        identity = self.guest.identity
        if identity is not None and not identity.is_mapped:
            raise ClientNotMapped
        _, domain = split_host(request.host)
        directory = self._sessions.directory
        record = directory.known_by_domain(domain) or await directory.by_domain(domain)
        if record is None or (identity is not None and not identity.may_reach(record.organization_id)):
            raise UnknownHost
        return record

    def _make_end(self, via: str) -> StreamEnd:
        return StreamEnd(via, self._accepted)

    def _accepted(self, end: StreamEnd, head: ResponseHead) -> None:
        """The proxy said 101: from here on both ends only pass bytes."""
        if self._lost:
            end.transport.abort()
            return
        self.stream = end
        self.client_end = ClientEnd(end.transport, self._ended)
        end.join(self.transport)
        self.transport.set_protocol(self.client_end)
        self.transport.write(response_101(head.headers))
        self._sessions.opened(self, asyncio.get_running_loop().time() - self._started)
        if self._early:
            self.client_end.data_received(self._early)
            self._early = b""
        self.transport.resume_reading()
        if self._sessions.draining:
            end.announce_going_away()

    def _ended(self) -> None:
        self._lost = True
        self._sessions.remove(self)

    @property
    def bytes_moved(self) -> int:
        """Bytes relayed so far, both ways."""
        if self.stream is None or self.client_end is None:
            return 0
        return self.stream.bytes_received + self.client_end.bytes_received

    def cut(self, close_code: int, reason: str) -> None:
        """End it now, with a Close frame if one fits in."""
        if self.stream is None:
            if not self._lost:
                self.refuse(EdgeDraining())
            return
        self.stream.explain(close_code, reason)
        self.transport.close()
        self.stream.transport.close()

    def refuse(self, refusal: EdgeRefused, request: UpgradeRequest | None = None) -> None:
        """Answer with the refusal and close."""
        self._stop_timer()
        self._sessions.refused(self.guest, refusal, request)
        if not self._lost:
            self.transport.write(response_error(refusal))
            self.transport.close()

    def _too_slow(self) -> None:
        self.refuse(RequestTimeout())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
