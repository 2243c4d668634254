"""Registration over the control stream, both ends, and pycapnp as a second witness."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanat.errors import ProtocolError
from qanat.wire.capnp import MessageDecoder, Struct, encode
from qanat.wire.control_stream import (
    ControlClient,
    ControlServer,
    LocalConfigurationAnswered,
    LocalConfigurationReceived,
    RegisterReceived,
    RegistrationAnswered,
    Unregistered,
    UnregisterReceived,
)
from qanat.wire.registration import (
    CONFIGURATION_MANAGER,
    REGISTRATION_SERVER,
    ConfigurationResult,
    ConnectionDetails,
    ConnectionError,
    RegisterConnection,
    UpdateConfiguration,
    decode_registration_result,
)
from qanat.wire.rpc import RPCClient, RPCServer
from tests.support.chunks import cut, exchange, feed, survives
from tests.support.requirements import requirement
from tests.support.vectors import load

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
registrations = st.builds(
    RegisterConnection,
    account_tag=texts,
    secret=st.binary(max_size=40),
    tunnel_uuid=st.uuids(),
    conn_index=st.integers(0, 255),
    connector_id=st.uuids(),
    features=st.lists(texts, max_size=5).map(tuple),
    version=texts,
    arch=texts,
    local_address=st.sampled_from([b"", bytes(16)]),
    replace_existing=st.booleans(),
    previous_attempts=st.integers(0, 255),
)
results = st.one_of(
    st.builds(ConnectionDetails, connection_id=st.uuids(), location=texts, remotely_managed=st.booleans()),
    st.builds(ConnectionError, cause=texts, retry_after=st.integers(0, 3600).map(float), should_retry=st.booleans()),
)
REGISTRATION = RegisterConnection(
    "account", b"secret", UUID(int=1), 2, UUID(int=3), ("a", "b"), "qanat/0.1", "linux_amd64", bytes(16), False, 7
)


@requirement("wire:round-trip")
@given(registrations, results)
def test_what_is_written_is_read(registration: RegisterConnection, result: ConnectionDetails | ConnectionError) -> None:
    client, server = ControlClient(), ControlServer()
    client.register(registration)
    _, [received] = exchange(client, server)
    assert received.message == registration
    if isinstance(result, ConnectionDetails):
        server.accept(received.question_id, result)
    else:
        server.refuse(received.question_id, result)
    assert exchange(client, server) == ([RegistrationAnswered(result)], [])


@requirement("wire:registration:golden")
def test_a_refusal_is_the_golden_bytes() -> None:
    vector = load("rpc", "registration_refused")
    client, server = ControlClient(), ControlServer()
    client.register(REGISTRATION)
    _, [received] = exchange(client, server)
    server.refuse(received.question_id, ConnectionError("busy", 5.0, True))
    assert server.data_to_send() == vector.data
    client.receive_data(vector.data)
    [answered] = client.events_received()
    assert isinstance(answered, RegistrationAnswered)
    assert repr(answered.result) == vector.expected[0]


@requirement("wire:registration:life")
def test_the_life_of_a_control_stream() -> None:
    client, server = ControlClient(), ControlServer()
    client.register(REGISTRATION)
    _, [registered] = exchange(client, server)
    server.accept(registered.question_id, ConnectionDetails(UUID(int=9), "lab", False))
    exchange(client, server)
    client.update_local_configuration(b'{"ingress":[]}')
    assert exchange(client, server) == ([LocalConfigurationAnswered()], [LocalConfigurationReceived(b'{"ingress":[]}')])
    client.unregister()
    assert exchange(client, server) == ([Unregistered()], [UnregisterReceived()])


@requirement("wire:registration:ids")
@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_id_that_is_not_16_bytes_is_refused(size: int) -> None:
    server, client = ControlServer(), RPCClient()
    broken = Struct(bytes(8), (Struct(), b"x" * size, Struct()))
    client.call(REGISTRATION_SERVER, 0, broken)
    with pytest.raises(ProtocolError, match="16 bytes"):
        server.receive_data(client.data_to_send())


@requirement("wire:registration:secret")
def test_the_secret_has_no_repr() -> None:
    assert "secret" not in repr(REGISTRATION)
    assert "secret" not in repr(RegisterReceived(1, REGISTRATION))


@requirement("wire:rpc:exceptions")
def test_unknown_methods_are_answered_by_an_exception() -> None:
    server, client = ControlServer(), RPCClient()
    client.call(REGISTRATION_SERVER, 99, Struct())
    client.call(12345, 0, Struct())
    failures, heard = exchange(client, server)
    assert [failure.reason for failure in failures] == ["unknown method"] * 2
    assert heard == []


@requirement("wire:round-trip")
@given(st.integers(-(2**31), 2**31 - 1), st.binary(max_size=50), texts)
def test_configuration_messages_are_read_as_written(version: int, config: bytes, error: str) -> None:
    client, server = RPCClient(), RPCServer()
    client.call(CONFIGURATION_MANAGER, 0, UpdateConfiguration(version, config).encode())
    _, [call] = exchange(client, server)
    assert UpdateConfiguration.decode(call.params) == UpdateConfiguration(version, config)
    server.respond(call.question_id, ConfigurationResult(version, error).encode())
    [result], _ = exchange(client, server)
    assert ConfigurationResult.decode(result.content) == ConfigurationResult(version, error)


@requirement("wire:chunks")
@given(st.lists(st.integers(0, 1000), max_size=10))
def test_cutting_changes_nothing(cuts: list[int]) -> None:
    client = ControlClient()
    client.register(REGISTRATION)
    client.update_local_configuration(b"{}")
    client.unregister()
    data = client.data_to_send()
    whole, split = ControlServer(), ControlServer()
    assert feed(split, cut(data, cuts)) == feed(whole, [data])
    assert split.data_to_send() == whole.data_to_send()


@requirement("wire:garbage")
@settings(max_examples=200)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=16), st.booleans())
def test_a_corrupted_registration_raises_only_protocol_error(place: int, junk: bytes, whole_words: bool) -> None:
    client = ControlClient()
    client.register(REGISTRATION)
    data = bytearray(client.data_to_send())
    place %= len(data)
    data[place : place + len(junk)] = junk
    survives(ControlServer, [bytes(data)])


SCHEMA = Path(__file__).with_name("registration.capnp")


@requirement("wire:capnp:witness")
async def test_pycapnp_registers_with_our_server() -> None:
    capnp: Any = pytest.importorskip("capnp")
    schema = capnp.load(str(SCHEMA))
    ours, theirs = socket.socketpair()
    async with capnp.kj_loop():
        heard: list[Any] = []
        server_task = asyncio.ensure_future(_serve(ours, heard))
        stream = await capnp.AsyncIoStream.create_connection(sock=theirs)
        remote = capnp.TwoPartyClient(stream).bootstrap().cast_as(schema.Registration)
        request = remote.registerConnection_request()
        request.auth.account, request.auth.secret = "account", b"secret"
        request.tunnelId, request.connIndex = UUID(int=1).bytes, 2
        request.options.client.id = UUID(int=3).bytes
        request.options.client.features = ["a", "b"]
        request.options.client.version, request.options.client.arch = "qanat/0.1", "linux_amd64"
        request.options.originIp, request.options.attempts = bytes(16), 7
        answer = await request.send()
        details = answer.result.result.details
        assert (details.uuid, details.location, details.managed) == (UUID(int=9).bytes, "lab", True)
        await remote.unregisterConnection()
        server_task.cancel()
        await asyncio.wait([server_task])
    assert heard[0].message == REGISTRATION
    assert heard[1] == UnregisterReceived()


async def _serve(ours: socket.socket, heard: list[Any]) -> None:
    server = ControlServer()
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        while data := await reader.read(65536):
            server.receive_data(data)
            for event in server.events_received():
                heard.append(event)
                if isinstance(event, RegisterReceived):
                    server.accept(event.question_id, ConnectionDetails(UUID(int=9), "lab", True))
            writer.write(server.data_to_send())
    finally:
        writer.close()


@requirement("wire:capnp:witness")
def test_pycapnp_reads_what_we_write_and_we_read_what_it_writes() -> None:
    capnp: Any = pytest.importorskip("capnp")
    schema = capnp.load(str(SCHEMA))
    options = REGISTRATION.encode().pointers[2]
    assert isinstance(options, Struct)
    with schema.Options.from_bytes(encode(options)) as ours:
        assert (ours.client.version, list(ours.client.features), ours.attempts) == ("qanat/0.1", ["a", "b"], 7)
    theirs = schema.Response.new_message()
    theirs.result.init("details").uuid = UUID(int=5).bytes
    theirs.result.details.location = "lab"
    wrapper = schema.Wrapper.new_message(response=theirs)
    decoder = MessageDecoder()
    decoder.receive_data(wrapper.to_bytes())
    [message] = decoder.events_received()
    assert decode_registration_result(message.root()) == ConnectionDetails(UUID(int=5), "lab", False)
