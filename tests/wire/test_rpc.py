"""The RPC subset, both roles."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanat.wire.capnp import MessageDecoder, Struct, encode
from qanat.wire.rpc import (
    MAX_QUESTIONS,
    Aborted,
    CallFailed,
    CallReceived,
    ExceptionKind,
    Kind,
    ResultReceived,
    RPCClient,
    RPCInvalid,
    RPCServer,
)
from tests.support.chunks import exchange, survives
from tests.support.requirements import requirement
from tests.support.vectors import load


def message(kind: int, body: Struct) -> bytes:
    return encode(Struct(struct.pack("<H", kind).ljust(8, b"\0"), (body,)))


def call(question_id: int, target: Struct, results_to: int = 0) -> bytes:
    head = struct.pack("<IHHQQ", question_id, 0, results_to, 1, 0)
    return message(Kind.CALL, Struct(head, (target, Struct(b"", (Struct(), None)), None)))


def imported(export_id: int) -> Struct:
    return Struct(struct.pack("<IHxx", export_id, 0), (None,))


@requirement("wire:rpc:golden")
def test_bootstrap_and_its_answer_are_the_golden_bytes() -> None:
    client, server = RPCClient(), RPCServer()
    client.call(1, 0, Struct())
    bootstrap, answer = load("rpc", "bootstrap").data, load("rpc", "bootstrap_answer").data
    assert client.data_to_send().startswith(bootstrap)
    server.receive_data(bootstrap)
    assert server.data_to_send() == answer


@requirement("wire:rpc:pipelined")
def test_a_pipelined_call_is_answered_and_both_questions_are_finished() -> None:
    client, server = RPCClient(), RPCServer()
    question = client.call(7, 3, Struct(b"\x09", ("hello",)))
    server.receive_data(client.data_to_send())
    [received] = server.events_received()
    assert isinstance(received, CallReceived)
    assert (received.interface_id, received.method_id, received.params.text(0)) == (7, 3, "hello")
    server.respond(received.question_id, Struct(b"", ("world",)))
    [result], rest = exchange(client, server)
    assert isinstance(result, ResultReceived)
    assert (result.question_id, result.content.text(0), rest) == (question, "world", [])


@requirement("wire:rpc:ids")
def test_question_ids_are_reused_and_later_calls_name_the_imported_object() -> None:
    client, server = RPCClient(), RPCServer()
    seen = set()
    for _ in range(3 * MAX_QUESTIONS):
        seen.add(client.call(7, 0, Struct()))
        _, [received] = exchange(client, server)
        server.respond(received.question_id, Struct())
        [result], _ = exchange(client, server)
        assert isinstance(result, ResultReceived)
    assert seen <= {0, 1}


@requirement("wire:rpc:exceptions")
def test_an_exception_reaches_the_caller() -> None:
    client, server = RPCClient(), RPCServer()
    client.call(7, 0, Struct())
    _, [received] = exchange(client, server)
    server.respond_exception(received.question_id, "no such method", ExceptionKind.UNIMPLEMENTED)
    [failed], _ = exchange(client, server)
    assert failed == CallFailed(1, "no such method", ExceptionKind.UNIMPLEMENTED)


@requirement("wire:rpc:exceptions")
def test_calls_on_anything_but_our_object_are_answered_by_an_exception() -> None:
    promised = Struct(struct.pack("<IHxx", 0, 1), (Struct(struct.pack("<Q", 55), (None,)),))
    for target, results_to in ((imported(9), 0), (imported(0), 1), (promised, 0), (Struct(), 2)):
        server = RPCServer()
        server.receive_data(call(4, target, results_to))
        assert server.events_received() == []
        decoder = MessageDecoder()
        decoder.receive_data(server.data_to_send())
        [answer] = decoder.events_received()
        assert answer.root().unsigned(0, 2) == Kind.RETURN
        assert answer.root().struct(0).unsigned(6, 2) == 1


@requirement("wire:rpc:abort")
def test_abort_ends_the_session() -> None:
    client, server = RPCClient(), RPCServer()
    client.abort("rpc: shutdown")
    server.receive_data(client.data_to_send() + b"whatever follows is not read".ljust(32, b"\0")[:0])
    assert server.events_received() == [Aborted("rpc: shutdown")]
    server.receive_data(load("rpc", "bootstrap").data)
    assert (server.events_received(), server.data_to_send()) == ([], b"")


@requirement("wire:rpc:unimplemented")
def test_unknown_messages_are_echoed_as_unimplemented() -> None:
    unknown = message(13, Struct(b"\x01", ("disembargo",)))
    for peer in (RPCServer(), RPCClient()):
        peer.receive_data(unknown)
        decoder = MessageDecoder()
        decoder.receive_data(peer.data_to_send())
        [echo] = decoder.events_received()
        assert echo.root().unsigned(0, 2) == Kind.UNIMPLEMENTED
        inner = echo.root().struct(0)
        assert (inner.unsigned(0, 2), inner.struct(0).text(0)) == (13, "disembargo")


def test_an_unimplemented_call_fails() -> None:
    client, server = RPCClient(), RPCServer()
    client.call(1, 0, Struct())
    _, [received] = exchange(client, server)
    server.respond(received.question_id, Struct())
    exchange(client, server)
    question = client.call(1, 0, Struct())
    sent = client.data_to_send()
    client.receive_data(struct.pack("<II", 0, len(sent) // 8 + 1) + struct.pack("<iHHQ", 0, 1, 1, 0) + sent[8:])
    assert client.events_received() == [CallFailed(question, "unimplemented", ExceptionKind.UNIMPLEMENTED)]


@requirement("wire:rpc:limits")
@pytest.mark.parametrize(
    "data",
    [
        load("rpc", "bootstrap").data * 2,
        b"".join(call(number, imported(0)) for number in range(MAX_QUESTIONS + 1)),
        message(Kind.FINISH, Struct(struct.pack("<Q", 9))),
        message(Kind.RETURN, Struct(struct.pack("<QQ", 9, 0))),
    ],
    ids=["question twice", "too many questions", "finish of nothing", "answer to nothing"],
)
def test_a_peer_that_breaks_the_rules_is_refused(data: bytes) -> None:
    with pytest.raises(RPCInvalid):
        RPCServer().receive_data(data)


@requirement("wire:rpc:limits")
def test_a_finished_question_is_still_returned_and_then_forgotten() -> None:
    server = RPCServer()
    server.receive_data(call(4, imported(0)) + message(Kind.FINISH, Struct(struct.pack("<Q", 4))))
    [received] = server.events_received()
    assert isinstance(received, CallReceived)
    server.respond(4, Struct())
    assert server.data_to_send()
    server.receive_data(call(4, imported(0)))
    assert len(server.events_received()) == 1


@requirement("wire:garbage")
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda kind, data, text: message(kind, Struct(data, (text, Struct(data, (text,))))),
                st.integers(0, 14),
                st.binary(max_size=24),
                st.text(max_size=5),
            ),
        ),
        max_size=6,
    )
)
def test_garbage_raises_only_protocol_error(chunks: list[bytes]) -> None:
    survives(RPCServer, chunks)

    def asking() -> RPCClient:
        client = RPCClient()
        client.call(1, 2, Struct())
        return client

    survives(asking, chunks)
