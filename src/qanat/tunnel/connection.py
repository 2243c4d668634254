"""What a connection is to those who use it, whatever carries it.

The edge opens streams on an `EdgeConnection`; the connector's `StreamHandler` accepts them. One stream is one request:
HTTP, WebSocket or TCP. A transport-specific module (`http2.py`, `quic.py`) implements both ends.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol
from uuid import UUID

from qanat.errors import QanatError
from qanat.net.transport import Receiver, Transport
from qanat.wire.registration import ConfigurationResult

Headers = tuple[tuple[str, str], ...]
"""Header lines in order, names as received, values as latin-1 text."""


class StreamKind(Enum):
    """What travels on a stream after its head."""

    HTTP = "http"
    WEBSOCKET = "websocket"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request stream, from edge to connector. `path` holds the query too, byte for byte."""

    kind: StreamKind
    method: str
    authority: str
    path: str
    headers: Headers = ()
    has_body: bool = False


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of the answer. An accepted WebSocket is status 101 on every transport."""

    status: int
    headers: Headers = ()
    from_upstream: bool = True
    """False when the connector made the answer itself because it could not reach its upstream."""
    rate_limited: bool = False


class StreamProtocol(Receiver, Protocol):
    """The edge's side of one stream, as heard: first the response head, then data, then the end.

    `connection_lost(None)` is a clean end; an exception means that the stream was reset or its connection lost.
    """

    def response_received(self, head: ResponseHead) -> None:
        """The answer begins. Called once, before any data."""
        return

    def trailers_received(self, trailers: Headers) -> None:
        """The answer's trailers, HTTP/2 only. Called before the end."""
        return


class IncomingStream(Transport, Protocol):
    """The connector's side of one stream: a transport that wants `respond` before the first `write`.

    `close` ends the stream cleanly after what is queued, `abort` resets it.
    """

    head: RequestHead

    def respond(self, head: ResponseHead) -> None:
        """Send the response head."""

    def write_trailers(self, trailers: Headers) -> None:
        """Send trailers and end the stream; dropped where the transport has none."""


class StreamHandler(Protocol):
    """Whoever serves a connector's streams: it dials the proxy, or is the proxy itself."""

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        """The protocol that will hear this stream. Its `connection_made(stream)` follows at once."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectorInfo:
    """What a connector says of itself when it registers."""

    connector_id: UUID
    version: str
    arch: str
    features: tuple[str, ...]
    address: str
    """Remote IP address and port, as seen by the edge."""
    protocol: str
    """`http2`, `quic` or `wss`."""


@dataclass(frozen=True, slots=True, repr=False)
class RegistrationRequest:
    """A connector asks to serve a tunnel. Holds the secret: never logged, and without a repr."""

    account_tag: str
    tunnel_uuid: UUID
    secret: bytes
    conn_index: int
    connector: ConnectorInfo
    replace_existing: bool = False
    previous_attempts: int = 0


@dataclass(frozen=True, slots=True)
class Registered:
    """The edge's yes: the connection's own id and where it ended up, for the connector's log."""

    connection_id: UUID
    location: str
    remotely_managed: bool = True
    """True spares the connector its report of local configuration."""


@dataclass(eq=False)
class RegistrationRefused(QanatError):
    """The edge's no. `cause` travels to the connector as it is.

    A stock cloudflared exits for good on a first connection's error unless the cause contains `Unauthorized`.
    """

    code: ClassVar[str] = "registration_refused"
    status: ClassVar[int] = 403
    cause: str
    retry_after: float = 0.0
    should_retry: bool = True

    def __str__(self) -> str:
        return self.cause


@dataclass(eq=False)
class ConnectionUnavailable(QanatError):
    """The connection takes no further stream: it is draining, lost, stalled, or at the peer's stream limit."""

    code: ClassVar[str] = "connection_unavailable"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class StreamReset(QanatError):
    """The peer reset the stream; before a response head this may have reached the upstream or not."""

    code: ClassVar[str] = "stream_reset"
    status: ClassVar[int] = 502
    error_code: int

    def __str__(self) -> str:
        return f"stream reset by peer (code {self.error_code})"


class EdgeConnection(Protocol):
    """The edge's end of a registered connection."""

    request: RegistrationRequest
    registered: Registered

    @abstractmethod
    def open_stream(self, head: RequestHead, protocol: StreamProtocol) -> Transport:
        """Open a stream and send its head. Raises `ConnectionUnavailable`.

        The transport's `write_eof` ends the request body (never on WebSocket or TCP: there it ends both directions);
        `close` ends the stream after what is queued; `abort` resets it. `protocol.connection_made` has been called
        when this returns.
        """

    async def push_configuration(self, version: int, config: object) -> ConfigurationResult:
        """Give the connector ingress rules (cloudflared's form). It ignores versions that it has, and may decline.

        Raises `ConnectionUnavailable`, also where the carrier cannot, `StreamReset`, `ProtocolError`, `TimeoutError`.
        """
        raise ConnectionUnavailable("no configuration can be pushed on this connection")

    @property
    @abstractmethod
    def available_streams(self) -> int:
        """How many more streams the connection takes now; 0 while draining or unhealthy."""

    @property
    @abstractmethod
    def open_streams(self) -> int:
        """Request streams open now."""

    @abstractmethod
    def drain(self) -> None:
        """Assign no new streams; close when the running ones have ended."""

    @abstractmethod
    def close(self) -> None:
        """Close now, streams included. The connector sees a closed connection and reconnects."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Return once the connection is gone."""


class Registrar(Protocol):
    """Who decides on registrations at the edge, and hears of connections that come and go."""

    async def register(self, request: RegistrationRequest) -> Registered:
        """Admit a connection, within 5 s. Raises `RegistrationRefused`."""
        ...

    def connection_ready(self, connection: EdgeConnection) -> None:
        """The answer has been sent: streams may be opened. Replaces an older connection with the same
        (tunnel, connector, index)."""
        ...

    def connection_draining(self, connection: EdgeConnection) -> None:
        """The connector unregistered: open no more streams on it."""
        ...

    def connection_lost(self, connection: EdgeConnection, exc: Exception | None) -> None:
        """The connection is gone."""
        ...


@dataclass(eq=False)
class ConnectionLost(QanatError):
    """The connection ended while something was asked of it."""

    code: ClassVar[str] = "connection_lost"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    reason: str

    def __str__(self) -> str:
        return self.reason


class ConnectorConnection(Protocol):
    """The connector's end of a connection: made with a `StreamHandler`, which gets every stream the edge opens."""

    @abstractmethod
    async def register(self, request: RegistrationRequest) -> Registered:
        """Ask the edge to serve the tunnel. The caller bounds the wait.

        Raises `RegistrationRefused` with the edge's cause, `ConnectionLost` when the connection ends first, and
        `ProtocolError` when the answer makes no sense. `request.connector.address` and `.protocol` do not travel.
        """

    @abstractmethod
    async def unregister(self) -> None:
        """Ask the edge to open no more streams; running ones go on, then the edge closes. The caller bounds the wait.

        Raises `ConnectionLost`.
        """

    @property
    @abstractmethod
    def open_streams(self) -> int:
        """Request streams open now."""

    @abstractmethod
    def close(self) -> None:
        """Close now, streams included."""

    @abstractmethod
    async def wait_closed(self) -> Exception | None:
        """Return once the connection is gone, with the reason if it did not end cleanly."""
