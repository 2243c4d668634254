"""From node to node: one mTLS connection for each stream, with the client's own upgrade request on it.

The far node serves it like a client's, but only from its own connections, so a request never travels further.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httptools

from qanat.edge import contexts
from qanat.edge.config import Cluster, Limits, parse_listen
from qanat.edge.door import NODE_SILENCE, Door, Doors
from qanat.edge.errors import ERROR_HEADER, NodeUnreachable, refusal_for
from qanat.edge.membership import Membership, Node
from qanat.edge.metrics import Metrics
from qanat.edge.relay import StreamEnd
from qanat.edge.session import ClientSession
from qanat.edge.sessions import Sessions
from qanat.errors import QanatError
from qanat.net.dial import dial_tls
from qanat.net.errors import TLSFailed
from qanat.net.silence import notice_silence
from qanat.net.tls import HandshakeGate, TLSServer
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.tunnel.connection import RequestHead, ResponseHead

DIAL_TIMEOUT = 2.0
MAX_ANSWER = 16 * 1024


class NodeRelay:
    """The `OtherNodes` of a router: dials nodes of the cluster."""

    def __init__(self, config: Cluster, members: Membership) -> None:
        self._config, self._members = config, members
        self._context = contexts.for_nodes(config, server=False)

    def holders(self, tunnel: UUID) -> Sequence[Node]:
        """See `OtherNodes`."""
        return self._members.holders(tunnel, asyncio.get_running_loop().time())

    async def open_stream(self, node: Node, tunnel: UUID, head: RequestHead, end: StreamEnd) -> None:
        """See `OtherNodes`. Raises `NodeUnreachable`."""
        exchange = _Exchange(end)
        try:
            transport = await dial_tls(
                node.host,
                node.port,
                exchange,
                self._context.current(),
                self._config.node_name,
                timeout=DIAL_TIMEOUT,
            )
        except (QanatError, OSError):
            self._members.suspect(node.id, asyncio.get_running_loop().time())
            raise NodeUnreachable from None
        notice_silence(transport, NODE_SILENCE)
        transport.write(_upgrade_request(head))


def _upgrade_request(head: RequestHead) -> bytes:
    lines = [f"GET {head.path} HTTP/1.1", f"Host: {head.authority}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += [f"{name}: {value}" for name, value in head.headers if name.startswith("sec-websocket-")]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Exchange(Receiver):
    """Reads the far node's answer for `end`, then leaves the transport to it."""

    def __init__(self, end: StreamEnd) -> None:
        self._end = end
        self._data = b""

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._end.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            if len(self._data) > MAX_ANSWER:
                self._transport.abort()
            return
        answer = _parse_answer(head + found)
        if answer is None:
            self._transport.abort()
        elif answer.status == 101:
            self._transport.set_protocol(self._end)
            self._end.response_received(answer)
            if rest:
                self._end.data_received(rest)
        else:
            codes = [value for name, value in answer.headers if name.lower() == ERROR_HEADER.lower()]
            self._end.refused(refusal_for(codes[0] if codes else ""))
            self._transport.close()

    def pause_writing(self) -> None:
        self._end.pause_writing()

    def resume_writing(self) -> None:
        self._end.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.connection_lost(exc)


def _parse_answer(head: bytes) -> ResponseHead | None:
    headers: list[tuple[str, str]] = []

    class Collector:
        def on_header(self, name: bytes, value: bytes) -> None:
            headers.append((name.decode("latin-1"), value.decode("latin-1")))

    parser = httptools.HttpResponseParser(Collector())
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return ResponseHead(parser.get_status_code(), tuple(headers))


class NodeListener:
    """Where other nodes relay to this one."""

    def __init__(self, config: Cluster, limits: Limits, sessions: Sessions, metrics: Metrics) -> None:
        self._config, self._sessions = config, sessions
        self._doors = Doors("nodes", limits.client_connections, metrics)
        self._gate = HandshakeGate(limits.handshakes, limits.waiting_handshakes)
        self._context = contexts.for_nodes(config, server=True)
        self._server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        """Listen; returns the bound address."""
        host, port = parse_listen(self._config.listen_addr)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: as_protocol(Door(self._doors, self._accept, silence=NODE_SILENCE)), host or None, port
        )
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

    def _accept(self, address: str, _: str) -> Receiver:
        def failed(error: Exception) -> None:
            self._doors.handshake_failed(error, address)

        return TLSServer(
            ClientSession(self._sessions, address, is_node=True),
            self._context.current(),
            verify=self._check_node,
            on_failure=failed,
            gate=self._gate,
        )

    def _check_node(self, tls: ssl.SSLObject) -> None:
        certificate: dict[str, Any] = tls.getpeercert() or {}
        if ("DNS", self._config.node_name) not in certificate.get("subjectAltName", ()):
            raise TLSFailed("certificate is not a node's")

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        self._doors.abort_all()
        await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
