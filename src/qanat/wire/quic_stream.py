"""How each QUIC stream begins: a signature, then one Cap'n Proto message, then raw bytes until the end.

Data streams carry a `ConnectRequest` one way and a `ConnectResponse` the other; RPC streams carry calls from their
seventh byte on. The messages are those of cloudflared's `tunnelrpc/quic` schema.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Generic, TypeVar

from qanat.errors import ProtocolError, UnexpectedEnd
from qanat.wire.capnp import CapnpInvalid, MessageDecoder, Struct, StructReader, encode
from qanat.wire.codec import Buffer, Codec

DATA_SIGNATURE = bytes.fromhex("0a36cd12a13e")
RPC_SIGNATURE = bytes.fromhex("52bb825cdb65")
VERSION = b"01"
"""cloudflared writes this behind the data signature, and never looks at what it gets back; we do the same."""
SIGNATURE_SIZE = 6
PREAMBLE_SIZE = SIGNATURE_SIZE + len(VERSION)
MAX_HEAD_SIZE = 256 * 1024
"""Bytes of a head: a request's or an answer's headers."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class UnknownSignature(ProtocolError):
    """A stream begins with neither signature."""

    code: ClassVar[str] = "unknown_signature"
    reason: str = "unknown stream signature"


class ConnectType(IntEnum):
    """What a data stream carries."""

    HTTP = 0
    WEBSOCKET = 1
    TCP = 2


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """The head of a data stream, from edge to connector. `dest` is a URL or a path; `ip:port` for TCP."""

    dest: str
    type: ConnectType
    metadata: Metadata = ()

    def encode(self) -> bytes:
        """Preamble and message."""
        body = Struct(struct.pack("<H6x", self.type), (_to_text(self.dest), _entries(self.metadata)))
        return DATA_SIGNATURE + VERSION + encode(body)

    @classmethod
    def decode(cls, root: StructReader) -> ConnectRequest:
        """Raises `CapnpInvalid`."""
        try:
            kind = ConnectType(root.unsigned(0, 2))
        except ValueError:
            raise CapnpInvalid("unknown type of connect request") from None
        return cls(_from_text(root, 0), kind, _metadata(root))


@dataclass(frozen=True, slots=True)
class ConnectResponse:
    """The head of the answer, from connector to edge. `error` is text for people, empty for success."""

    error: str = ""
    metadata: Metadata = ()

    def encode(self) -> bytes:
        """Preamble and message."""
        return DATA_SIGNATURE + VERSION + encode(Struct(b"", (self.error, _entries(self.metadata))))

    @classmethod
    def decode(cls, root: StructReader) -> ConnectResponse:
        """Raises `CapnpInvalid`."""
        return cls(root.text(0), _metadata(root))


def _entries(metadata: Metadata) -> tuple[Struct, ...]:
    return tuple(Struct(b"", (_to_text(key), _to_text(value))) for key, value in metadata)


def _metadata(root: StructReader) -> Metadata:
    return tuple((_from_text(entry, 0), _from_text(entry, 1)) for entry in root.structs(1))


# Header values are bytes to HTTP and to Go's strings, while Cap'n Proto wants UTF-8: pass them through as latin-1.


def _to_text(value: str) -> bytes:
    return value.encode("latin-1") + b"\0" if value else b""


def _from_text(reader: StructReader, index: int) -> str:
    raw = reader.data(index)
    if raw and raw[-1]:
        raise CapnpInvalid("a Cap'n Proto text does not end in NUL")
    return raw[:-1].decode("latin-1")


@dataclass(frozen=True, slots=True)
class RPCStarted:
    """The stream carries RPC; what follows is Cap'n Proto messages."""


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """What came behind the head."""

    data: bytes


H = TypeVar("H", ConnectRequest, ConnectResponse)


class _StreamReader(Codec[H | RPCStarted | BytesReceived], Generic[H]):
    """Reads a stream's head from bytes cut anywhere, then passes the rest on.

    `started` says when the head is done: from there on the owner may as well hand bytes on directly.
    """

    rpc_allowed: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._buffer = Buffer()
        self._message: MessageDecoder | None = None
        self.started = False

    @abstractmethod
    def _decode(self, root: StructReader) -> H:
        """The head in a message."""

    def receive_data(self, data: bytes) -> None:
        if self.started:
            self._events.append(BytesReceived(data))
        elif self._message is not None:
            self._feed_message(data)
        else:
            self._buffer.feed(data)
            self._read_preamble()

    def receive_eof(self) -> None:
        if not self.started:
            raise UnexpectedEnd("a stream's head")

    def _read_preamble(self) -> None:
        signature = self._buffer.peek(SIGNATURE_SIZE)
        if self.rpc_allowed and signature == RPC_SIGNATURE:
            self._buffer.take(SIGNATURE_SIZE)
            self._start(RPCStarted(), self._buffer.take_all())
            return
        if not (DATA_SIGNATURE.startswith(signature) or (self.rpc_allowed and RPC_SIGNATURE.startswith(signature))):
            raise UnknownSignature
        if len(self._buffer) >= PREAMBLE_SIZE:
            self._buffer.take(PREAMBLE_SIZE)
            self._message = MessageDecoder(MAX_HEAD_SIZE, only_one=True)
            self._feed_message(self._buffer.take_all())

    def _feed_message(self, data: bytes) -> None:
        assert self._message is not None
        self._message.receive_data(data)
        for message in self._message.events_received():
            self._start(self._decode(message.root()), self._message.take_rest())

    def _start(self, event: H | RPCStarted, rest: bytes) -> None:
        self.started = True
        self._events.append(event)
        if rest:
            self._events.append(BytesReceived(rest))


class RequestReader(_StreamReader[ConnectRequest]):
    """The connector's reader of a stream that the edge opened."""

    rpc_allowed = True

    def _decode(self, root: StructReader) -> ConnectRequest:
        return ConnectRequest.decode(root)


class ResponseReader(_StreamReader[ConnectResponse]):
    """The edge's reader of the answer."""

    def _decode(self, root: StructReader) -> ConnectResponse:
        return ConnectResponse.decode(root)
