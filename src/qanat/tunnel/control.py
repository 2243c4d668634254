"""The control stream at work: what both ends do around `wire.control_stream`, whatever carries its bytes.

`EdgeControl` asks the `Registrar` and answers; `ConnectorControl` registers and unregisters. Both are handed bytes and
a `write`; the connection that owns them closes them when it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qanat.errors import QanatError
from qanat.logger import get_logger
from qanat.tunnel.connection import (
    ConnectionLost,
    ConnectorInfo,
    EdgeConnection,
    Registered,
    Registrar,
    RegistrationRefused,
    RegistrationRequest,
)
from qanat.wire.control_stream import (
    RPC_TIMEOUT,
    ControlClient,
    ControlServer,
    LocalConfigurationReceived,
    RegisterReceived,
    RegistrationAnswered,
    Unregistered,
    UnregisterReceived,
)
from qanat.wire.registration import ConnectionDetails, ConnectionError, RegisterConnection

REGISTRAR_TIMEOUT = RPC_TIMEOUT - 0.5
"""Seconds the registrar has: its answer must still travel within the connector's limit."""
FIRST_CALL_TIMEOUT = 15.0
"""Seconds in which a new connection must ask to be registered."""

_log = get_logger("qanat.tunnel")


class EdgeControl:
    """The edge's end of a control stream: serves one registration."""

    def __init__(
        self,
        registrar: Registrar,
        connection: EdgeConnection,
        address: str,
        protocol: str,
        write: Callable[[bytes], None],
    ) -> None:
        self._registrar, self._connection, self._write = registrar, connection, write
        self._address, self._protocol = address, protocol
        self._codec = ControlServer()
        self._task: asyncio.Task[None] | None = None
        self._ready = False
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(FIRST_CALL_TIMEOUT, self._give_up)

    @property
    def is_registered(self) -> bool:
        """Whether the registrar has been told that the connection is ready."""
        return self._ready

    def data_received(self, data: bytes) -> None:
        """Bytes of the control stream. Raises `ProtocolError`."""
        self._codec.receive_data(data)
        for event in self._codec.events_received():
            match event:
                case RegisterReceived(question_id, message):
                    self._start(question_id, message)
                case UnregisterReceived() if self._ready:
                    self._registrar.connection_draining(self._connection)
                    self._flush()
                    self._connection.drain()
                case LocalConfigurationReceived(config):
                    _log.debug("local configuration received", size=len(config))
        self._flush()

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._deadline.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._ready:
            self._ready = False
            self._registrar.connection_lost(self._connection, exc)

    async def wait_closed(self) -> None:
        """After `lost`: return once nothing of this is running."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _start(self, question_id: int, message: RegisterConnection) -> None:
        if self._task is not None:
            self._codec.refuse(question_id, ConnectionError("the connection is registered already"))
            return
        self._deadline.cancel()
        self._task = asyncio.get_running_loop().create_task(self._register(question_id, message))

    async def _register(self, question_id: int, message: RegisterConnection) -> None:
        request = self._connection.request = self._request(message)
        try:
            async with asyncio.timeout(REGISTRAR_TIMEOUT):
                registered = await self._registrar.register(request)
        except RegistrationRefused as refusal:
            self._refuse(question_id, refusal)
        except TimeoutError:
            self._refuse(question_id, RegistrationRefused("Unauthorized: the edge could not check the token in time"))
        except Exception:
            _log.exception("registration failed", conn_index=message.conn_index)
            self._refuse(question_id, RegistrationRefused("Unauthorized: the edge could not check the token"))
        else:
            self._connection.registered = registered
            details = ConnectionDetails(registered.connection_id, registered.location, registered.remotely_managed)
            self._codec.accept(question_id, details)
            self._flush()
            self._ready = True
            self._registrar.connection_ready(self._connection)

    def _refuse(self, question_id: int, refusal: RegistrationRefused) -> None:
        error = ConnectionError(refusal.cause, refusal.retry_after, refusal.should_retry)
        self._codec.refuse(question_id, error)
        self._flush()
        # A stock connector would leave a refused HTTP/2 connection open and idle for ever: only our close moves it on.
        self._connection.close()

    def _request(self, message: RegisterConnection) -> RegistrationRequest:
        connector = ConnectorInfo(
            message.connector_id, message.version, message.arch, message.features, self._address, self._protocol
        )
        return RegistrationRequest(
            account_tag=message.account_tag,
            tunnel_uuid=message.tunnel_uuid,
            secret=message.secret,
            conn_index=message.conn_index,
            connector=connector,
            replace_existing=message.replace_existing,
            previous_attempts=message.previous_attempts,
        )

    def _give_up(self) -> None:
        _log.info("connection closed: it never registered", address=self._address, protocol=self._protocol)
        self._connection.close()

    def _flush(self) -> None:
        if data := self._codec.data_to_send():
            self._write(data)


class ConnectorControl:
    """The connector's end of a control stream."""

    def __init__(self, write: Callable[[bytes], None], local_configuration: bytes = b"{}") -> None:
        self._write, self._local_configuration = write, local_configuration
        self._codec = ControlClient()
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._registered: asyncio.Future[Registered] = loop.create_future()
        self._unregistered: asyncio.Future[None] = loop.create_future()
        self._conn_index = 0

    def opened(self) -> None:
        """The stream is there: registration may begin."""
        if not self._opened.done():
            self._opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Bytes of the control stream. Raises `ProtocolError`."""
        self._codec.receive_data(data)
        for event in self._codec.events_received():
            match event:
                case RegistrationAnswered(result) if not self._registered.done():
                    self._answered(result)
                case Unregistered() if not self._unregistered.done():
                    self._unregistered.set_result(None)
        self._flush()

    async def register(self, request: RegistrationRequest, local_address: bytes = b"") -> Registered:
        """See `ConnectorConnection.register`."""
        await asyncio.shield(self._opened)
        self._conn_index = request.conn_index
        self._codec.register(_message(request, local_address))
        self._flush()
        return await asyncio.shield(self._registered)

    async def unregister(self) -> None:
        """See `ConnectorConnection.unregister`."""
        if not self._unregistered.done():
            self._codec.unregister()
            self._flush()
        await asyncio.shield(self._unregistered)

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        error = exc if isinstance(exc, QanatError) else ConnectionLost("connection with edge closed")
        for future in (self._opened, self._registered, self._unregistered):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits hears of it; nobody has to

    def _answered(self, result: ConnectionDetails | ConnectionError) -> None:
        if isinstance(result, ConnectionError):
            refusal = RegistrationRefused(result.cause, result.retry_after, result.should_retry)
            self._registered.set_exception(refusal)
            self._registered.exception()
            return
        self._registered.set_result(Registered(result.connection_id, result.location, result.remotely_managed))
        if self._conn_index == 0 and not result.remotely_managed:
            self._codec.update_local_configuration(self._local_configuration)

    def _flush(self) -> None:
        if data := self._codec.data_to_send():
            self._write(data)


def _message(request: RegistrationRequest, local_address: bytes) -> RegisterConnection:
    connector = request.connector
    return RegisterConnection(
        account_tag=request.account_tag,
        secret=request.secret,
        tunnel_uuid=request.tunnel_uuid,
        conn_index=request.conn_index,
        connector_id=connector.connector_id,
        features=connector.features,
        version=connector.version,
        arch=connector.arch,
        local_address=local_address,
        replace_existing=request.replace_existing,
        previous_attempts=request.previous_attempts,
    )
