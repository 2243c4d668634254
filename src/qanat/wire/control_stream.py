"""The control stream of a connection: registration over RPC, as a codec for each end.

The bytes are the same over HTTP/2 (DATA of the stream the edge opens) and QUIC (the first stream the connector
opens). Owners bound the waiting: each call is to be answered within 5 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from qanat.errors import ProtocolError
from qanat.wire.capnp import Message, MessageDecoder, Struct
from qanat.wire.codec import Codec
from qanat.wire.registration import (
    REGISTER_CONNECTION,
    REGISTRATION_SERVER,
    UNREGISTER_CONNECTION,
    UPDATE_LOCAL_CONFIGURATION,
    ConnectionDetails,
    ConnectionError,
    RegisterConnection,
    decode_local_configuration,
    decode_registration_result,
    encode_local_configuration,
)
from qanat.wire.rpc import Aborted, CallFailed, CallReceived, ExceptionKind, ResultReceived, RPCClient, RPCServer

RPC_TIMEOUT = 5.0
"""Seconds within which each call is answered."""


@dataclass(frozen=True, slots=True)
class RegisterReceived:
    """The connector wants to register: `accept` or `refuse`."""

    question_id: int
    message: RegisterConnection


@dataclass(frozen=True, slots=True)
class UnregisterReceived:
    """The connector is stopping. It has been answered: open no more streams, then close."""


@dataclass(frozen=True, slots=True)
class LocalConfigurationReceived:
    """The connector tells of its local configuration, as JSON. It has been answered."""

    config: bytes


class ControlServer(Codec[RegisterReceived | UnregisterReceived | LocalConfigurationReceived | Aborted]):
    """The edge's end."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder, self._rpc = MessageDecoder(), RPCServer()

    def receive_data(self, data: bytes) -> None:
        try:
            self._decoder.receive_data(data)
        finally:
            for message in self._decoder.events_received():
                self._receive_message(message)

    def receive_eof(self) -> None:
        self._decoder.receive_eof()

    def data_to_send(self) -> bytes:
        return self._rpc.data_to_send()

    def accept(self, question_id: int, details: ConnectionDetails) -> None:
        """Answer a registration: yes."""
        self._rpc.respond(question_id, details.encode())

    def refuse(self, question_id: int, error: ConnectionError) -> None:
        """Answer a registration: no. The connection is to be closed once that is sent."""
        self._rpc.respond(question_id, error.encode())

    def _receive_message(self, message: Message) -> None:
        self._rpc.receive_message(message)
        for event in self._rpc.events_received():  # each call is answered before the next message is looked at
            if isinstance(event, CallReceived):
                self._receive_call(event)
            else:
                self._events.append(event)

    def _receive_call(self, call: CallReceived) -> None:
        match call.interface_id, call.method_id:
            case (id_, method) if id_ == REGISTRATION_SERVER and method == REGISTER_CONNECTION:
                message = RegisterConnection.decode(call.params)
                self._events.append(RegisterReceived(call.question_id, message))
            case (id_, method) if id_ == REGISTRATION_SERVER and method == UNREGISTER_CONNECTION:
                self._rpc.respond(call.question_id, Struct())
                self._events.append(UnregisterReceived())
            case (id_, method) if id_ == REGISTRATION_SERVER and method == UPDATE_LOCAL_CONFIGURATION:
                self._rpc.respond(call.question_id, Struct())
                self._events.append(LocalConfigurationReceived(decode_local_configuration(call.params)))
            case _:
                self._rpc.respond_exception(call.question_id, "unknown method", ExceptionKind.UNIMPLEMENTED)


@dataclass(frozen=True, slots=True)
class RegistrationAnswered:
    """The edge's answer to `register`."""

    result: ConnectionDetails | ConnectionError


@dataclass(frozen=True, slots=True)
class Unregistered:
    """The edge's answer to `unregister`: it will send no new streams."""


@dataclass(frozen=True, slots=True)
class LocalConfigurationAnswered:
    """The edge has our local configuration; `error` says if it did not like it."""

    error: str = ""


ClientEvent = RegistrationAnswered | Unregistered | LocalConfigurationAnswered | Aborted


class ControlClient(Codec[ClientEvent]):
    """The connector's end."""

    def __init__(self) -> None:
        super().__init__()
        self._rpc = RPCClient()
        self._methods: dict[int, int] = {}

    def receive_data(self, data: bytes) -> None:
        try:
            self._rpc.receive_data(data)
        finally:
            for event in self._rpc.events_received():
                if isinstance(event, Aborted):
                    self._events.append(event)
                else:
                    self._receive_answer(event, self._methods.pop(event.question_id))

    def receive_eof(self) -> None:
        self._rpc.receive_eof()

    def data_to_send(self) -> bytes:
        return self._rpc.data_to_send()

    def register(self, message: RegisterConnection) -> None:
        """Ask to serve a tunnel; `RegistrationAnswered` follows."""
        self._call(REGISTER_CONNECTION, message.encode())

    def update_local_configuration(self, config: bytes) -> None:
        """Report our configuration; asked of the connection with index 0 unless the tunnel is remotely managed."""
        self._call(UPDATE_LOCAL_CONFIGURATION, encode_local_configuration(config))

    def unregister(self) -> None:
        """Announce that we stop; `Unregistered` follows."""
        self._call(UNREGISTER_CONNECTION, Struct())

    def _call(self, method: int, params: Struct) -> None:
        self._methods[self._rpc.call(REGISTRATION_SERVER, method, params)] = method

    def _receive_answer(self, event: ResultReceived | CallFailed, method: int) -> None:
        failure = event.reason if isinstance(event, CallFailed) else ""
        if method == UNREGISTER_CONNECTION:
            self._events.append(Unregistered())
        elif method == UPDATE_LOCAL_CONFIGURATION:
            self._events.append(LocalConfigurationAnswered(failure))
        elif isinstance(event, CallFailed):
            raise ProtocolError(f"registration failed: {failure}")
        else:
            self._events.append(RegistrationAnswered(decode_registration_result(event.content)))
