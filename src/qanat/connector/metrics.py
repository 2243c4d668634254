"""The connector's metrics, and the little server that shows them with its readiness."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from qanat import __version__
from qanat.net.transport import Receiver
from qanat.tunnel.connection import IncomingStream, StreamHandler

REQUEST_TIMEOUT = 5.0
MAX_REQUEST = 16 * 1024


class Metrics:
    """Counters of one connector, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.connections = Gauge(
            "qanat_connector_connections", "Connections registered now", ["protocol"], registry=registry
        )
        self.dials = Counter(
            "qanat_connector_dials", "Attempts to connect, by how they went", ["protocol", "result"], registry=registry
        )
        self.lost = Counter(
            "qanat_connector_connections_lost", "Registered connections that were lost", registry=registry
        )
        self.streams = Counter("qanat_connector_streams", "Streams the edge opened", ["kind"], registry=registry)
        self.unreachable = Counter(
            "qanat_connector_upstream_unreachable", "Streams the upstream did not answer", registry=registry
        )
        self.open_streams = Gauge("qanat_connector_open_streams", "Streams open now", registry=registry)
        build = Gauge(
            "qanat_connector_build_info", "Always 1; the label says which build", ["version"], registry=registry
        )
        build.labels(__version__).set(1)

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class CountedHandler:
    """A stream handler that counts the streams it passes on."""

    def __init__(self, handler: StreamHandler, metrics: Metrics) -> None:
        self._handler, self._metrics = handler, metrics

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        """What the handler behind this one says."""
        self._metrics.streams.labels(stream.head.kind.value).inc()
        return self._handler.handle_stream(stream)


class StatusServer:
    """Serves `/metrics`, `/ready` and `/healthcheck`; anything else is 404."""

    def __init__(self, metrics: Metrics, connector_id: UUID, ready_connections: Callable[[], int]) -> None:
        self._metrics, self._connector_id, self._ready = metrics, connector_id, ready_connections
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the bound host and port. Raises `OSError`."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_REQUEST)
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop listening, and wait until the last answer is out."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(REQUEST_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b" ", 2)))
                await writer.drain()
        writer.close()

    def _answer(self, request: list[bytes]) -> bytes:
        path = request[1].split(b"?")[0] if len(request) == 3 and request[0] in (b"GET", b"HEAD") else b""
        if path == b"/metrics":
            return _http(200, "text/plain; version=0.0.4; charset=utf-8", self._metrics.render())
        if path == b"/ready":
            ready = self._ready()
            status = 200 if ready else 503
            body = {"status": status, "readyConnections": ready, "connectorId": str(self._connector_id)}
            return _http(status, "application/json", json.dumps(body).encode() + b"\n")
        if path == b"/healthcheck":
            return _http(200, "text/plain", b"OK\n")
        return _http(404, "text/plain", b"not found\n")


def _http(status: int, content_type: str, body: bytes) -> bytes:
    reason = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
