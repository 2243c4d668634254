"""A loopback port that leads to one server behind a tunnel, for clients that know nothing of tunnels.

Each local connection gets a session of its own through the tunnel. Requests are parsed, because `Host` must name the
server; answers go back byte for byte. Pages in a browser cannot use the port: other hosts and origins are refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from cryptography import x509

from qanat.client.dial import Edge, dial_transport
from qanat.client.errors import TunnelFailed
from qanat.client.transport import CONNECT_TIMEOUT
from qanat.errors import ProtocolError
from qanat.logger import get_logger
from qanat.net.http1 import (
    BodyReceived,
    Framing,
    HTTPEvent,
    MessageEnded,
    RequestReader,
    RequestReceived,
    encode_chunk,
    encode_last_chunk,
)
from qanat.net.http1_fields import encode_head, values
from qanat.net.transport import Receiver, Transport, as_protocol

log = get_logger("qanat.forward")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Answers(Receiver):
    """The tunnel's side of a forwarded connection: what it receives goes to the local client."""

    def __init__(self, local: LocalConnection) -> None:
        self._local = local

    def data_received(self, data: bytes) -> None:
        self._local.transport.write(data)

    def pause_writing(self) -> None:
        self._local.transport.pause_reading()

    def resume_writing(self) -> None:
        self._local.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._local.transport.close()


class LocalConnection(Receiver):
    """One local client. Reading starts once the tunnel is there."""

    transport: Transport

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._reader = RequestReader()
        self._tunnel: Transport | None = None
        self._chunked = False

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        asyncio.get_running_loop().call_soon(self._wait_for_tunnel)
        self._forward.spawn(self)

    def _wait_for_tunnel(self) -> None:
        if self._tunnel is None and not self.transport.is_closing():
            self.transport.pause_reading()

    async def connect(self) -> None:
        """Dial, or tell the client why not."""
        try:
            self._tunnel = await self._forward.dial(Answers(self))
        except TunnelFailed as failure:
            log.warn("tunnel unavailable", code=failure.reason, hop=failure.hop, error=failure.message)
            self._refuse(502, {"code": failure.reason, "hop": failure.hop, "message": failure.message})
            return
        self.transport.resume_reading()
        self.data_received(b"")  # what came before reading was paused

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.receive_data(data)
            if self._tunnel is not None:
                self._forward_events(self._tunnel)
        except ProtocolError as error:
            self._refuse(400, {"code": "bad_request", "hop": "client", "message": str(error)})

    def _forward_events(self, tunnel: Transport) -> None:
        while events := self._reader.events_received():
            for event in events:
                self._forward_event(event, tunnel)

    def _forward_event(self, event: HTTPEvent, tunnel: Transport) -> None:
        if isinstance(event, RequestReceived):
            if not self._forward.permits(event):
                self._refuse(403, {"code": "forbidden_host", "hop": "client", "message": "this port is local"})
                return
            self._chunked = event.framing is Framing.CHUNKED
            tunnel.write(self._forward.rewrite(event))
        elif isinstance(event, BodyReceived):
            tunnel.write(encode_chunk(event.data) if self._chunked else event.data)
        elif isinstance(event, MessageEnded):
            if self._chunked:
                tunnel.write(encode_last_chunk(event.trailers))
            self._reader.next_message()

    def _refuse(self, status: int, error: dict[str, str]) -> None:
        body = json.dumps({"error": error}).encode()
        headers = [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))]
        self.transport.write(encode_head(b"HTTP/1.1 %d Refused" % status, [*headers, (b"Connection", b"close")]) + body)
        self.transport.close()
        self._drop_tunnel()

    def pause_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.pause_reading()

    def resume_writing(self) -> None:
        if self._tunnel is not None:
            self._tunnel.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forward.forget(self)
        self._drop_tunnel()

    def _drop_tunnel(self) -> None:
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()


class Forward:
    """A listening forward."""

    address: tuple[str, int]

    def __init__(self, edge: Edge, host: str, anchors: Sequence[x509.Certificate]) -> None:
        self._edge, self.host, self._anchors = edge, host, anchors
        self._tasks: dict[LocalConnection, asyncio.Task[None]] = {}

    @property
    def url(self) -> str:
        """Where local clients connect to."""
        return f"http://{self.address[0]}:{self.address[1]}"

    async def dial(self, above: Receiver) -> Transport:
        return await dial_transport(self._edge, self.host, self._anchors, CONNECT_TIMEOUT, above)

    def spawn(self, connection: LocalConnection) -> None:
        """Dial for a new connection, in a task that ends with it."""
        self._tasks[connection] = asyncio.create_task(connection.connect())

    def forget(self, connection: LocalConnection) -> None:
        self._tasks.pop(connection).cancel()

    def permits(self, request: RequestReceived) -> bool:
        """Whether a request comes from here: a page whose name was made to resolve to loopback does not."""
        hosts = [_name(b"//" + value) for value in values(request.headers, b"host")]
        origins = [_name(value) for value in values(request.headers, b"origin")]
        return len(hosts) == 1 and all(name in LOOPBACK for name in (*hosts, *origins))

    def rewrite(self, request: RequestReceived) -> bytes:
        """The head as the server is to see it."""
        local = (b"host", b"origin")
        headers = [(name, value) for name, value in request.headers if name.lower() not in local]
        start_line = b"%b %b HTTP/1.1" % (request.method, request.target)
        return encode_head(start_line, [(b"Host", self.host.encode()), *headers])

    async def close(self) -> None:
        """End every connection."""
        tasks = dict(self._tasks)
        for connection in tasks:
            connection.transport.abort()
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _name(url: bytes) -> str:
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


@asynccontextmanager
async def serve_forward(
    edge: Edge, host: str, anchors: Sequence[x509.Certificate], *, port: int = 0, listen: str = "127.0.0.1"
) -> AsyncIterator[Forward]:
    """Forward a loopback port to `host` for as long as the context lasts. Raises `OSError`."""
    forward = Forward(edge, host, anchors)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: as_protocol(LocalConnection(forward)), listen, port)
    bound = server.sockets[0].getsockname()
    forward.address = (bound[0], bound[1])
    try:
        yield forward
    finally:
        server.close()
        await forward.close()
