"""Cap'n Proto RPC, two parties, as much of level 1 as the control channel speaks.

`RPCServer` exports one object, the answer to Bootstrap; calls may come pipelined on that answer before it was sent.
`RPCClient` asks for the object and calls it, pipelined in the same way. Neither passes capabilities around, so
everything beyond that is answered by `unimplemented` or an exception (capnproto.org/rpc.html, rpc.capnp).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from qanat.errors import ProtocolError
from qanat.wire.capnp import Capability, Message, MessageDecoder, Struct, StructReader, encode
from qanat.wire.codec import Codec

MAX_QUESTIONS = 64
"""Calls in flight in one direction; a stock connector has one."""
MAX_REASON = 1024
"""Characters of a peer's error text that we keep."""
EXPORT_ID = 0
"""The one object a server exports."""


class Kind(IntEnum):
    """The members of rpc.capnp's `Message` union that we know."""

    UNIMPLEMENTED = 0
    ABORT = 1
    CALL = 2
    RETURN = 3
    FINISH = 4
    RELEASE = 6
    BOOTSTRAP = 8


class ExceptionKind(IntEnum):
    """The types of an rpc.capnp `Exception`."""

    FAILED = 0
    OVERLOADED = 1
    DISCONNECTED = 2
    UNIMPLEMENTED = 3


class RPCInvalid(ProtocolError):
    """A message that breaks the rules of the RPC protocol."""

    code = "rpc_invalid"


@dataclass(frozen=True, slots=True)
class CallReceived:
    """The peer calls a method of our object; `respond` or `respond_exception` with its `question_id`."""

    question_id: int
    interface_id: int
    method_id: int
    params: StructReader


@dataclass(frozen=True, slots=True)
class ResultReceived:
    """The answer to our call."""

    question_id: int
    content: StructReader


@dataclass(frozen=True, slots=True)
class CallFailed:
    """Our call was answered by an exception."""

    question_id: int
    reason: str
    kind: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """The peer ended the RPC session; it sends nothing more. Stock connectors do so after they unregister."""

    reason: str


E = TypeVar("E")


class _RPC(Codec[E]):
    """What both roles share: cutting messages, and answering what they do not know."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = MessageDecoder()
        self.aborted = False

    def receive_data(self, data: bytes) -> None:
        try:
            self._decoder.receive_data(data)
        finally:  # whole messages before a broken one count, however the bytes were cut
            for message in self._decoder.events_received():
                self.receive_message(message)

    def receive_message(self, message: Message) -> None:
        """Take one whole message, for an owner who must act on each before the next."""
        if not self.aborted:
            self._receive(message, message.root())

    def receive_eof(self) -> None:
        self._decoder.receive_eof()

    def abort(self, reason: str) -> None:
        """End the session, telling the peer why."""
        self.aborted = True
        self._send(Kind.ABORT, _exception(reason, ExceptionKind.FAILED))

    def _receive(self, message: Message, root: StructReader) -> None:
        raise NotImplementedError

    def _send(self, kind: Kind, body: Struct) -> None:
        self._outgoing.append(encode(Struct(struct.pack("<H", kind).ljust(8, b"\0"), (body,))))

    def _send_unimplemented(self, message: Message) -> None:
        """Send a message we do not know back to where it came from, wrapped."""
        if len(message.segments) > 1:
            raise RPCInvalid("unknown RPC message")
        # The echo's pointer slot is where the old root pointer stood, relative to all it points to: no copy needed.
        head = struct.pack("<iHHHHI", 0, 1, 1, Kind.UNIMPLEMENTED, 0, 0)
        self._outgoing.append(struct.pack("<II", 0, len(message.segments[0]) // 8 + 2) + head + message.segments[0])


class RPCServer(_RPC[CallReceived | Aborted]):
    """The side that is asked. Events: `CallReceived`, `Aborted`."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[int, _Answer] = {}

    def respond(self, question_id: int, results: Struct) -> None:
        """Answer a call."""
        self._return(question_id, 0, Struct(b"", (results, None)))

    def respond_exception(self, question_id: int, reason: str, kind: ExceptionKind = ExceptionKind.FAILED) -> None:
        """Answer a call by an exception."""
        self._return(question_id, 1, _exception(reason, kind))

    def _receive(self, message: Message, root: StructReader) -> None:
        body = root.struct(0)
        match root.unsigned(0, 2):
            case Kind.BOOTSTRAP:
                question_id = self._ask(body, is_bootstrap=True)
                table = (Struct(struct.pack("<HBxI", 1, 0xFF, EXPORT_ID), (None,)),)
                self._return(question_id, 0, Struct(b"", (Capability(0), table)))
            case Kind.CALL:
                self._receive_call(body)
            case Kind.FINISH:
                self._receive_finish(body.unsigned(0, 4))
            case Kind.ABORT:
                self.aborted = True
                self._events.append(Aborted(body.text(0)[:MAX_REASON]))
            case Kind.RELEASE | Kind.UNIMPLEMENTED:
                pass  # our one object lives as long as the session
            case Kind.RETURN:
                raise RPCInvalid("an RPC answer to no question")
            case _:
                self._send_unimplemented(message)

    def _receive_call(self, body: StructReader) -> None:
        ours = self._is_our_object(body.struct(0))
        question_id = self._ask(body, is_bootstrap=False)
        if not ours:
            self.respond_exception(question_id, "the call's target is unknown")
        elif body.unsigned(6, 2):
            self.respond_exception(question_id, "results go to the caller only", ExceptionKind.UNIMPLEMENTED)
        else:
            params = body.struct(1).struct(0)
            call = CallReceived(question_id, body.unsigned(8, 8), body.unsigned(4, 2), params)
            self._events.append(call)

    def _is_our_object(self, target: StructReader) -> bool:
        if target.unsigned(4, 2) == 0:
            return target.unsigned(0, 4) == EXPORT_ID
        promised = target.struct(0)
        answer = self._answers.get(promised.unsigned(0, 4))
        return target.unsigned(4, 2) == 1 and answer is not None and answer.is_bootstrap and not promised.structs(0)

    def _ask(self, body: StructReader, is_bootstrap: bool) -> int:
        question_id = body.unsigned(0, 4)
        if question_id in self._answers:
            raise RPCInvalid("an RPC question id is used twice")
        if len(self._answers) >= MAX_QUESTIONS:
            raise RPCInvalid("too many RPC questions at once")
        self._answers[question_id] = _Answer(is_bootstrap)
        return question_id

    def _return(self, question_id: int, which: int, content: Struct) -> None:
        answer = self._answers[question_id]
        if answer.returned:
            raise ValueError("the call has been answered")
        answer.returned = True
        # releaseParamCaps is stored inverted; we were given none, and keep none.
        self._send(Kind.RETURN, Struct(struct.pack("<IBxHQ", question_id, 1, which, 0), (content,)))
        if answer.finished:
            del self._answers[question_id]

    def _receive_finish(self, question_id: int) -> None:
        answer = self._answers.get(question_id)
        if answer is None or answer.finished:
            raise RPCInvalid("an RPC question is finished that was not asked")
        answer.finished = True
        if answer.returned:
            del self._answers[question_id]


@dataclass(slots=True)
class _Answer:
    """A question the peer asked; forgotten once it is both returned and finished."""

    is_bootstrap: bool
    returned: bool = False
    finished: bool = False


class RPCClient(_RPC[ResultReceived | CallFailed | Aborted]):
    """The side that asks. Events: `ResultReceived`, `CallFailed`, `Aborted`."""

    def __init__(self) -> None:
        super().__init__()
        self._questions: set[int] = set()
        self._bootstrap: int | None = None
        self._import: int | None = None

    def call(self, interface_id: int, method_id: int, params: Struct) -> int:
        """Call a method of the peer's object; returns the question's id. The first call asks for the object too."""
        if self._bootstrap is None:
            self._bootstrap = self._ask()
            self._send(Kind.BOOTSTRAP, Struct(struct.pack("<Q", self._bootstrap), (None,)))
        question_id = self._ask()
        head = struct.pack("<IHHQQ", question_id, method_id, 0, interface_id, 0)
        self._send(Kind.CALL, Struct(head, (self._target(), Struct(b"", (params, None)), None)))
        return question_id

    def _target(self) -> Struct:
        if self._import is not None:
            return Struct(struct.pack("<IHxx", self._import, 0), (None,))
        promised = Struct(struct.pack("<Q", self._bootstrap), (None,))
        return Struct(struct.pack("<IHxx", 0, 1), (promised,))

    def _ask(self) -> int:
        question_id = next(number for number in range(MAX_QUESTIONS + 1) if number not in self._questions)
        if question_id == MAX_QUESTIONS:
            raise ValueError("too many RPC questions at once")
        self._questions.add(question_id)
        return question_id

    def _receive(self, message: Message, root: StructReader) -> None:
        body = root.struct(0)
        match root.unsigned(0, 2):
            case Kind.RETURN:
                self._receive_return(body)
            case Kind.ABORT:
                self.aborted = True
                self._events.append(Aborted(body.text(0)[:MAX_REASON]))
            case Kind.UNIMPLEMENTED:
                self._receive_unimplemented(body)
            case Kind.RELEASE:
                pass  # we export nothing
            case _:
                self._send_unimplemented(message)

    def _receive_return(self, body: StructReader) -> None:
        question_id = body.unsigned(0, 4)
        if question_id not in self._questions:
            raise RPCInvalid("an RPC answer to no question")
        self._questions.remove(question_id)
        is_bootstrap = question_id == self._bootstrap and self._import is None
        # releaseResultCaps is stored inverted: of the bootstrap's answer we keep the object.
        self._send(Kind.FINISH, Struct(struct.pack("<IBxxx", question_id, int(is_bootstrap))))
        which, content = body.unsigned(6, 2), body.struct(0)
        if is_bootstrap:
            self._receive_bootstrap(which, content)
        elif which == 0:
            self._events.append(ResultReceived(question_id, content.struct(0)))
        else:
            reason = content.text(0)[:MAX_REASON] if which == 1 else "cancelled"
            self._events.append(CallFailed(question_id, reason, content.unsigned(4, 2)))

    def _receive_bootstrap(self, which: int, content: StructReader) -> None:
        if which != 0:
            raise RPCInvalid("the peer has no object to call")
        index, table = content.capability(0), content.structs(1)
        if index is None or index >= len(table) or table[index].unsigned(0, 2) not in (1, 2):
            raise RPCInvalid("the peer's answer holds no object to call")
        self._import = table[index].unsigned(4, 4)

    def _receive_unimplemented(self, echo: StructReader) -> None:
        if echo.unsigned(0, 2) not in (Kind.CALL, Kind.BOOTSTRAP):
            return
        question_id = echo.struct(0).unsigned(0, 4)
        if question_id == self._bootstrap and self._import is None:
            raise RPCInvalid("the peer has no object to call")
        if question_id in self._questions:
            self._questions.remove(question_id)
            self._events.append(CallFailed(question_id, "unimplemented", ExceptionKind.UNIMPLEMENTED))


def _exception(reason: str, kind: ExceptionKind) -> Struct:
    return Struct(struct.pack("<IHxx", 0, kind), (reason, None))
