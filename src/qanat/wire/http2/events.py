"""What an HTTP/2 connection reports.

Header names are lower case, values latin-1 text; pseudo-headers come first, as on the wire. A stream's story is its
head (`RequestReceived` or `ResponseReceived`), data, perhaps trailers, then `StreamEnded`, or `StreamReset` at any
point. `StreamClosed` follows once our own side is done too.
"""

from __future__ import annotations

from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RequestReceived:
    """A stream opened by the client; `is_bare` when it ends with its head."""

    stream_id: int
    headers: Headers
    is_bare: bool


@dataclass(frozen=True)
class InformationalReceived:
    """A 1xx answer; the final one follows."""

    stream_id: int
    headers: Headers


@dataclass(frozen=True)
class ResponseReceived:
    """The final answer's head."""

    stream_id: int
    headers: Headers


@dataclass(init=False)  # not frozen: one is made for each frame, and a frozen one costs thrice
class DataReceived:
    """Payload as it came, of a large frame in pieces.

    `acknowledge(stream_id, len(data))` once it has been taken, or the peer's window closes.
    """

    stream_id: int
    data: bytes

    def __init__(self, stream_id: int, data: bytes) -> None:
        self.stream_id, self.data = stream_id, data


@dataclass(frozen=True)
class TrailersReceived:
    """Trailers; `StreamEnded` follows."""

    stream_id: int
    headers: Headers


@dataclass(frozen=True)
class StreamEnded:
    """The peer sends no more on this stream."""

    stream_id: int


@dataclass(frozen=True)
class StreamReset:
    """The stream is gone, all queued data with it."""

    stream_id: int
    error_code: int
    by_peer: bool = True
    """False when we reset it because of what the peer sent."""


@dataclass(frozen=True)
class StreamClosed:
    """Both sides have ended cleanly, and all we sent is out."""

    stream_id: int


@dataclass(frozen=True)
class QueueDrained:
    """As asked by `notify_below`: the stream's queue has fallen low enough to write more."""

    stream_id: int


@dataclass(frozen=True)
class SettingsReceived:
    """The peer's settings are in force."""


@dataclass(frozen=True)
class PingAcknowledged:
    """The answer to our PING."""

    payload: bytes


@dataclass(frozen=True)
class GoAwayReceived:
    """The peer will process no stream above `last_stream_id`, and wants no new ones."""

    last_stream_id: int
    error_code: int
    debug: bytes


Event = (
    RequestReceived
    | InformationalReceived
    | ResponseReceived
    | DataReceived
    | TrailersReceived
    | StreamEnded
    | StreamReset
    | StreamClosed
    | QueueDrained
    | SettingsReceived
    | PingAcknowledged
    | GoAwayReceived
)
