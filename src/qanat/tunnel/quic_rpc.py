"""Calls that an edge makes over QUIC: each has a stream of its own, opened by the edge, behind the RPC signature."""

from __future__ import annotations

import asyncio
import json

from qanat.errors import ProtocolError
from qanat.net.transport import Receiver, Transport
from qanat.tunnel.connection import ConnectionLost, StreamReset
from qanat.wire.quic_stream import RPC_SIGNATURE
from qanat.wire.registration import (
    CONFIGURATION_MANAGER,
    UPDATE_CONFIGURATION,
    ConfigurationResult,
    UpdateConfiguration,
)
from qanat.wire.rpc import CallFailed, CallReceived, ExceptionKind, ResultReceived, RPCClient, RPCServer

NOT_SUPPORTED = "remote configuration is not supported"


class ConfigurationPush(Receiver):
    """The edge's side: asks a connector to take a configuration. `answered` says what came of it."""

    def __init__(self, version: int, config: object) -> None:
        self._client = RPCClient()
        message = UpdateConfiguration(version, json.dumps(config).encode())
        self._client.call(CONFIGURATION_MANAGER, UPDATE_CONFIGURATION, message.encode())
        self.answered: asyncio.Future[ConfigurationResult] = asyncio.get_running_loop().create_future()
        self.answered.add_done_callback(lambda future: future.cancelled() or future.exception())

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._transport.write(RPC_SIGNATURE + self._client.data_to_send())

    def data_received(self, data: bytes) -> None:
        try:
            self._client.receive_data(data)
            for event in self._client.events_received():
                if isinstance(event, ResultReceived):
                    self._answer(ConfigurationResult.decode(event.content))
                elif isinstance(event, CallFailed):
                    raise ProtocolError(f"the connector cannot be configured: {event.reason}")
        except ProtocolError as error:
            if not self.answered.done():
                self.answered.set_exception(error)
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            gone = exc if isinstance(exc, StreamReset | ConnectionLost) else StreamReset(0)
            self.answered.set_exception(gone)

    def _answer(self, result: ConfigurationResult) -> None:
        if not self.answered.done():
            self.answered.set_result(result)
        self._transport.write(self._client.data_to_send())  # says that the call is finished
        self._transport.write_eof()


class RemoteCalls(Receiver):
    """The connector's side: declines configurations politely, and knows no other call."""

    def __init__(self) -> None:
        self._server = RPCServer()

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._server.receive_data(data)
        for event in self._server.events_received():
            if not isinstance(event, CallReceived):
                continue
            if (event.interface_id, event.method_id) == (CONFIGURATION_MANAGER, UPDATE_CONFIGURATION):
                self._server.respond(event.question_id, ConfigurationResult(-1, NOT_SUPPORTED).encode())
            else:
                self._server.respond_exception(event.question_id, "unknown method", ExceptionKind.UNIMPLEMENTED)
        if outgoing := self._server.data_to_send():
            self._transport.write(outgoing)

    def eof_received(self) -> bool:
        return False
