"""What the edge can see of a stream: a copy of the bytes it relays, and a look at what they are.

The bytes are WebSocket frames, and in these there must be nothing but TLS records (RFC 8446 section 5.1).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from qanat.edge.relay import ClientEnd, StreamEnd
from qanat.edge.session import ClientSession
from qanat.errors import ProtocolError
from qanat.net.layer import Layer
from qanat.net.transport import Transport
from qanat.wire.websocket import PayloadReceived, WebSocketCodec

KEPT = 4 * 1024 * 1024
"""Bytes of a stream that are looked at; the rest is only counted."""
_RECORD_KINDS = frozenset(range(20, 25))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that passed at one moment."""

    at: float
    up: bool
    """From the client to the tunnel."""
    data: bytes


@dataclass
class Wiretap:
    """Listens at an edge: give `attach` to its `sessions.on_opened`."""

    chunks: list[Chunk] = field(default_factory=list)
    streams: int = 0

    def attach(self, session: ClientSession) -> None:
        """From now on keep a copy of everything this session relays."""
        assert session.stream is not None
        assert session.client_end is not None
        self.streams += 1
        _Tap(self, session.transport, session.stream, session.client_end)

    def note(self, up: bool, data: bytes) -> None:
        self.chunks.append(Chunk(time.monotonic(), up, bytes(data)))

    def bytes_seen(self, up: bool) -> int:
        """How many bytes passed in one direction."""
        return sum(len(chunk.data) for chunk in self.chunks if chunk.up == up)

    def raw(self, up: bool) -> bytes:
        """What passed in one direction, as the edge holds it."""
        return b"".join(chunk.data for chunk in self.chunks if chunk.up == up)[:KEPT]

    def payload(self, up: bool) -> bytes:
        """The same without its WebSocket frames. Raises `ProtocolError` if these are none."""
        codec = WebSocketCodec() if up else WebSocketCodec(lambda: bytes(4))
        codec.receive_data(self.raw(up))
        return b"".join(event.data for event in codec.events_received() if isinstance(event, PayloadReceived))

    def seconds_beyond(self) -> float:
        """How long the edge waited for answers: from the last bytes up to the last ones down, over all turns."""
        total, asked, answered = 0.0, 0.0, 0.0
        for chunk in self.chunks:
            if not chunk.up:
                answered = chunk.at
                continue
            total += max(answered - asked, 0.0) if asked else 0.0
            asked = chunk.at
        return total + (max(answered - asked, 0.0) if asked else 0.0)

    def readable(self, words: list[bytes]) -> list[bytes]:
        """Which of these words can be found, framed or not, in either direction."""
        seen = [self.raw(True), self.raw(False), *self._payloads()]
        return [word for word in words if any(word in data for data in seen)]

    def records(self) -> int | None:
        """How many TLS records passed; None if there was anything else."""
        counts = [count_records(payload) for payload in self._payloads()]
        return None if None in counts else sum(count or 0 for count in counts)

    def _payloads(self) -> list[bytes]:
        try:
            return [self.payload(True), self.payload(False)]
        except ProtocolError:
            return [bytes(5)]  # no WebSocket: no TLS record either


class _Tap(Layer):
    """Sits between a client's connection and its stream."""

    def __init__(self, wiretap: Wiretap, client: Transport, stream: StreamEnd, above: ClientEnd) -> None:
        super().__init__(above)
        self._wiretap = wiretap
        self.below, self._above_made = client, True
        client.set_protocol(self)
        stream.join(self)

    def data_received(self, data: bytes) -> None:
        self._wiretap.note(True, data)
        super().data_received(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._wiretap.note(False, bytes(data))
        super().write(data)


def count_records(stream: bytes) -> int | None:
    """The TLS records in a byte stream, the last one perhaps unfinished; None where something else stands."""
    position = count = 0
    while position + 5 <= len(stream):
        if stream[position] not in _RECORD_KINDS or stream[position + 1] != 3:
            return None
        position += 5 + int.from_bytes(stream[position + 3 : position + 5], "big")
        count += 1
    return count


def hexdump(data: bytes, lines: int = 4) -> list[str]:
    """The first bytes as people like to see them."""
    rows = [data[start : start + 16] for start in range(0, min(len(data), 16 * lines), 16)]
    return [
        f"{16 * number:04x}  {row.hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for number, row in enumerate(rows)
    ]
