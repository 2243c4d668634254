"""An edge to test against: throwaway operator certificates, a directory in a dictionary, connectors and clients."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from qanat.api.internal import Change, Event, EventBatch, TunnelRecord
from qanat.edge import operator_pki
from qanat.edge.config import EdgeConfig
from qanat.edge.server import Edge, serve
from qanat.errors import QanatError
from qanat.ids import OrganizationID, TunnelID, TunnelUUID, WorkspaceID
from qanat.net.dial import dial_tls
from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketServer
from qanat.tunnel.connection import ConnectorInfo, IncomingStream, RegistrationRequest, ResponseHead
from qanat.tunnel.http2 import ConnectorHTTP2
from qanat.wire.token import TunnelToken
from qanat.wire.websocket import PayloadReceived, PongReceived, WebSocketCodec, WebSocketEvent, accept_key
from tests.support.planted import remember

BASE = "tunnel.example.net"
TIMEOUT = 20.0
CLIENT_NAME = "gateway.example.net"


class OperatorFiles:
    """A set of operator certificates in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        operator_pki.make(directory, f"a1b2c3d4.{BASE}")
        self.client(CLIENT_NAME)

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def files(self, name: str) -> dict[str, str]:
        return {"certificate_file": str(self.path(name)), "key_file": str(self.path(f"{name}-key"))}

    def client(self, name: str, lifetime: timedelta = timedelta(days=1)) -> Path:
        """A client certificate called `name`; returns its path."""
        ca = self.path("client-ca"), self.path("client-ca-key")
        return operator_pki.make_client(ca, name, self.directory / name, lifetime)[0]

    def client_context(self, name: str | None = CLIENT_NAME, alpn: str = "http/1.1") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.path("client-listener-ca")))
        context.set_alpn_protocols([alpn])
        if name is not None:
            context.load_cert_chain(self.path(name), self.path(f"{name}-key"))
        return context


@dataclass
class Tunnel:
    """A tunnel with its token. `record` is what the directory says; replace it to change the tunnel."""

    record: TunnelRecord
    token: TunnelToken

    def host(self, route: str = "tickets") -> str:
        return f"{route}.{self.record.domain}"


def make_tunnel(
    label: str = "a1b2c3d4",
    organization: str = "org-1",
    *,
    archived: bool = False,
    certificates: tuple[str, ...] = ("x",),
) -> Tunnel:
    identity, secret, account = uuid.uuid4(), os.urandom(32), os.urandom(16).hex()
    record = TunnelRecord(
        id=TunnelID(f"tnl_{identity.hex}"),
        uuid=identity,
        account_tag=account,
        secret_sha256=hashlib.sha256(secret).hexdigest(),
        domain=f"{label}.{BASE}",
        organization_id=OrganizationID(organization),
        workspace_id=WorkspaceID("wrkspc_1"),
        archived=archived,
        ca_certificates=certificates,
    )
    token = TunnelToken(account, TunnelUUID(identity), secret)
    remember(token.encode())
    return Tunnel(record, token)


@dataclass
class DictDirectory:
    """A control plane in a dictionary; `stop` makes it unreachable."""

    tunnels: dict[uuid.UUID, TunnelRecord] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    questions: int = 0
    log: list[Change] = field(default_factory=list)
    up: bool = True

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()

    def add(self, tunnel: Tunnel) -> Tunnel:
        self.tunnels[tunnel.record.uuid] = tunnel.record
        return tunnel

    async def change(self, record: TunnelRecord) -> None:
        """Replace a record and tell everybody."""
        self.tunnels[record.uuid] = record
        cursor = len(self.log) + 1
        self.log.append(Change(cursor=cursor, kind="tunnel", tunnel_uuid=record.uuid, domain=record.domain))
        await self._wake()

    async def stop(self) -> None:
        self.up = False
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _check(self) -> None:
        if not self.up:
            raise ControlDown

    async def by_uuid(self, uuid: uuid.UUID) -> TunnelRecord | None:
        self._check()
        self.questions += 1
        return self.tunnels.get(uuid)

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        self._check()
        self.questions += 1
        return next((record for record in self.tunnels.values() if record.domain == domain), None)

    async def changes(self, after: int | None) -> AsyncIterator[Change]:
        self._check()
        cursor = len(self.log) if after is None else after
        yield Change(cursor=cursor, kind="heartbeat")
        while True:
            self._check()
            for change in self.log[cursor:]:
                yield change
            cursor = len(self.log)
            async with self._changed:
                if self.up and len(self.log) == cursor:
                    await self._changed.wait()

    async def send_events(self, batch: EventBatch) -> None:
        self._check()
        self.events.extend(batch.events)
        await self._wake()

    async def event(self, kind: str) -> Event:
        """The first event of a kind, waited for."""
        async with asyncio.timeout(TIMEOUT), self._changed:
            await self._changed.wait_for(lambda: any(event.kind == kind for event in self.events))
        return next(event for event in self.events if event.kind == kind)


class ControlDown(QanatError):
    code = "control_down"


def edge_settings(files: OperatorFiles, **changes: Any) -> dict[str, Any]:
    """What a configuration file would hold."""
    settings: dict[str, Any] = {
        "name": "edge-1",
        "connectors": {"listen_addr": "127.0.0.1:0", "tls": files.files("connector-listener"), "quic": False},
        "clients": {
            "listen_addr": "127.0.0.1:0",
            "tls": files.files("client-listener"),
            "client_ca_file": str(files.path("client-ca")),
            "allowed_addresses": ["127.0.0.0/8"],
        },
        "client_organizations": [{"san": CLIENT_NAME, "organizations": ["org-1"]}],
        "drain_timeout": "5s",
    }
    for key, value in changes.items():
        settings[key] = settings[key] | value if isinstance(settings.get(key), dict) else value
    return settings


def edge_config(files: OperatorFiles, **changes: Any) -> EdgeConfig:
    return EdgeConfig.model_validate(edge_settings(files, **changes))


@asynccontextmanager
async def running_edge(files: OperatorFiles, directory: DictDirectory, **changes: Any) -> AsyncIterator[Edge]:
    async with serve(edge_config(files, **changes), directory) as edge:
        yield edge


class Echo(Receiver):
    """Sends back what it receives."""

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class EchoProxy:
    """A connector's `StreamHandler` that is its own proxy: accepts every WebSocket and echoes its bytes."""

    def __init__(self, status: int = 101) -> None:
        self.status = status
        self.heads: list[Any] = []
        self.streams: list[IncomingStream] = []

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        self.heads.append(stream.head)
        self.streams.append(stream)
        headers = dict(stream.head.headers)
        if self.status == 101:
            accept = accept_key(headers["sec-websocket-key"])
            fields = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept))
            stream.respond(ResponseHead(101, fields))
            return WebSocketServer(Echo())
        stream.respond(ResponseHead(self.status, (), from_upstream=self.status != 502))
        stream.close()
        return asyncio.Protocol()


def registration(token: TunnelToken, index: int, connector: uuid.UUID, attempts: int = 0) -> RegistrationRequest:
    info = ConnectorInfo(connector, "2026.8.2", "linux_amd64", ("serialized_headers",), "", "")
    return RegistrationRequest(
        token.account_tag, token.tunnel_uuid, token.secret, index, info, previous_attempts=attempts
    )


async def connect(
    address: tuple[str, int],
    files: OperatorFiles,
    token: TunnelToken,
    handler: Any,
    *,
    index: int = 0,
    connector: uuid.UUID | None = None,
    attempts: int = 0,
) -> ConnectorHTTP2:
    """A registered connection from a connector of our own. Raises `RegistrationRefused`."""
    context = ssl.create_default_context(cafile=str(files.path("connector-listener-ca")))
    connection = ConnectorHTTP2(handler)
    async with asyncio.timeout(TIMEOUT):
        await dial_tls(*address, connection, context, "h2.cftunnel.com", timeout=TIMEOUT)
        try:
            await connection.register(registration(token, index, connector or uuid.uuid4(), attempts))
        except BaseException:
            connection.close()
            raise
    return connection


@dataclass
class Answer:
    """The head of an HTTP response and what followed it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A client of the edge, over the standard library's TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.codec = WebSocketCodec(lambda: os.urandom(4))
        self._events: list[WebSocketEvent] = []

    @classmethod
    async def dial(cls, address: tuple[str, int], context: ssl.SSLContext, local: str | None = None) -> Client:
        async with asyncio.timeout(TIMEOUT):
            source = None if local is None else (local, 0)
            name = f"x.a1b2c3d4.{BASE}"  # what the throwaway certificate is for, whatever host is asked for
            reader, writer = await asyncio.open_connection(
                *address, ssl=context, server_hostname=name, local_addr=source
            )
        return cls(reader, writer)

    async def request(self, head: bytes) -> Answer:
        async with asyncio.timeout(TIMEOUT):
            self.writer.write(head)
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            size = int(headers.get("content-length", "0"))
            return Answer(int(lines[0].split()[1]), headers, await self.reader.readexactly(size))

    async def upgrade(self, host: str, path: str = "/", extra: str = "") -> Answer:
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extra}\r\n"
        )
        answer = await self.request(head.encode())
        if answer.status == 101:
            assert answer.headers["sec-websocket-accept"] == accept_key(key).lower()
        return answer

    async def event(self) -> WebSocketEvent | None:
        """The next WebSocket event other than a Pong; None at the end."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                while self._events:
                    event = self._events.pop(0)
                    if not isinstance(event, PongReceived):
                        return event
                data = await self.reader.read(65536)
                if not data:
                    return None
                self.codec.receive_data(data)
                self._events += self.codec.events_received()
                self.writer.write(self.codec.data_to_send())

    async def echo(self, payload: bytes) -> bytes:
        """Send a payload and read as many bytes back."""
        self.codec.send_payload(payload)
        self.writer.write(self.codec.data_to_send())
        received = b""
        while len(received) < len(payload):
            event = await self.event()
            assert isinstance(event, PayloadReceived), event
            received += event.data
        return received

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self.writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass


@asynccontextmanager
async def client(edge: Edge, files: OperatorFiles, name: str | None = CLIENT_NAME) -> AsyncIterator[Client]:
    made = await Client.dial(edge.client_address, files.client_context(name))
    try:
        yield made
    finally:
        await made.close()
