"""HTTP/1.1 messages (RFC 9112), strictly: bytes in, events out; both roles.

A parser of our own because the doubtful message is the point here: whatever two programs could read differently is
refused, never repaired. The reader stops behind each message until `next_message`, so pipelined bytes wait their turn.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from qanat.errors import UnexpectedEnd
from qanat.net.errors import HTTPViolation
from qanat.net.http1_fields import Fields, Header, Headers, encode_head, parse_block, tokens
from qanat.wire.codec import Codec

MAX_HEAD: Final = 64 * 1024
"""Largest head, in bytes."""
MAX_START_LINE: Final = 16 * 1024
_KEPT_START_LINES: Final = 256
_MAX_REMEMBERED: Final = 2048
"""Bytes of a head that may be remembered until the next one comes: often it is the same."""
_MAX_CHUNK_LINE: Final = 4096
_MAX_LENGTH_DIGITS: Final = 18
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~\x80-\xff]+) HTTP/(1\.[01])")
_STATUS_LINE: Final = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")

# What a reader is about to read. Numbers, because keeping its method instead costs an object each time.
_NOTHING: Final = 0
_HEAD: Final = 1
_LENGTH: Final = 2
_UNTIL_CLOSE: Final = 3
_CHUNK_LINE: Final = 4
_CHUNK: Final = 5
_CHUNK_END: Final = 6
_TRAILERS: Final = 7


class Framing(Enum):
    """How the end of a body is known (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


NO_BODY: Final = Framing.NONE
CHUNKED: Final = Framing.CHUNKED
"""By themselves, because looking a member up on its class costs a call."""


@dataclass(init=False)
class RequestReceived:
    """The head of a request. `target` is as it was sent; `length` counts only with `Framing.LENGTH`.

    A peer that sends the same head again causes the same object again: nobody may change it.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Fields
    framing: Framing
    length: int

    def __init__(
        self, method: bytes, target: bytes, version: bytes, headers: Fields, framing: Framing, length: int = 0
    ) -> None:
        self.method, self.target, self.version = method, target, version
        self.headers, self.framing, self.length = headers, framing, length

    @property
    def informational(self) -> bool:
        """Never: that is for answers."""
        return False


@dataclass(init=False)
class ResponseReceived:
    """The head of an answer. Status 1xx comes before the real one, with `Framing.NONE` and no `MessageEnded`.

    Shared like that of a request.
    """

    status: int
    reason: bytes
    version: bytes
    headers: Fields
    framing: Framing
    length: int
    keep_alive: bool

    def __init__(
        self,
        status: int,
        reason: bytes,
        version: bytes,
        headers: Fields,
        framing: Framing,
        length: int = 0,
        keep_alive: bool = True,
    ) -> None:
        self.status, self.reason, self.version = status, reason, version
        self.headers, self.framing, self.length, self.keep_alive = headers, framing, length, keep_alive

    @property
    def informational(self) -> bool:
        """Whether another head follows this one."""
        return self.status < 200


@dataclass(init=False)
class BodyReceived:
    """A piece of the body, without its chunk framing."""

    data: bytes

    def __init__(self, data: bytes) -> None:
        self.data = data


@dataclass(frozen=True)
class MessageEnded:
    """The message is complete."""

    trailers: Headers = ()


_ENDED: Final = MessageEnded()
HTTPEvent = RequestReceived | ResponseReceived | BodyReceived | MessageEnded


def encode_chunk(data: bytes) -> bytes:
    """One chunk; `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: Iterable[Header] = ()) -> bytes:
    """The end of a chunked body."""
    return encode_head(b"0", trailers)


class MessageReader(Codec[HTTPEvent]):
    """What `RequestReader` and `ResponseReader` share: finding the head, and the end of the body."""

    lenient_chunks: ClassVar[bool] = False
    """Whether chunk extensions are skipped; otherwise they are refused."""
    start_line_too_long: ClassVar[int] = 400

    def __init__(self) -> None:
        super().__init__()
        self.waiting = b""
        """What waits for the rest of a head, or for `next_message`."""
        self._scanned = 0
        """How many of the first bytes hold no beginning of a block's end."""
        self._state = _HEAD
        self._remaining = 0
        self._last_head = b""
        """The last head, with the empty line behind it."""
        self._last: RequestReceived | ResponseReceived | None = None
        """What the last head was read as."""

    @property
    def idle(self) -> bool:
        """Whether no message has begun."""
        return self._state == _HEAD and not self.waiting

    def next_message(self) -> None:
        """The message that ended has been dealt with: read the next one, beginning with what is here already."""
        self._state = _HEAD
        if self.waiting:
            self.receive_data(b"")

    def take_rest(self) -> bytes:
        """Bytes behind the message; the connection is no longer ours to parse."""
        rest, self.waiting = self.waiting, b""
        return rest

    def receive_data(self, data: bytes) -> None:
        data = self.waiting + data if self.waiting else data
        position = 0
        try:
            while position < len(data):
                reached = self._step(data, position)
                if reached < 0:
                    break
                position = reached
        finally:
            self.waiting = data[position:] if position else data

    def forget(self) -> None:
        """Let go of the last head."""
        self._last_head, self._last = b"", None

    def receive_eof(self) -> None:
        """The peer ended its direction: the end of a body that only its end delimits. Raises `UnexpectedEnd`."""
        if self._state == _UNTIL_CLOSE:
            self._end()
        elif self._state != _NOTHING and not self.idle:
            raise UnexpectedEnd("HTTP message")

    # Each takes the data and a position, and returns how far it got, or -1 when it needs more.

    def _step(self, data: bytes, position: int) -> int:
        state = self._state
        if state == _HEAD:
            return self._read_head(data, position)
        if state == _LENGTH:
            return self._read_length(data, position)
        if state == _CHUNK_LINE:
            return self._read_chunk_size(data, position)
        if state == _CHUNK:
            return self._read_chunk(data, position)
        if state == _CHUNK_END:
            return self._read_chunk_end(data, position)
        if state == _TRAILERS:
            return self._read_trailers(data, position)
        if state == _UNTIL_CLOSE:
            return self._read_until_close(data, position)
        return -1

    def _read_head(self, data: bytes, position: int) -> int:
        event = self._last
        end = position + len(self._last_head)
        if event is None or data[position:end] != self._last_head:
            end = data.find(b"\r\n\r\n", position + self._scanned) + 4
            if end < 4:
                self._check_incomplete(data, position)
                self._scanned = max(len(data) - position - 3, 0)
                return -1
            event = self._parse_head(data[position:end])
        self._scanned = 0
        self._events.append(event)
        self._begin_body(event)
        return end

    def _parse_head(self, head: bytes) -> RequestReceived | ResponseReceived:
        if len(head) > MAX_HEAD + 4:
            raise HTTPViolation("header block too large", 431)
        start_line, more, block = head[:-4].partition(b"\r\n")
        if len(start_line) > MAX_START_LINE:
            raise HTTPViolation("start line too long", self.start_line_too_long)
        event = self._take_head(start_line, parse_block(block) if more else Fields((), {}))
        self._last_head, self._last = (head, event) if len(head) <= _MAX_REMEMBERED else (b"", None)
        return event

    def _check_incomplete(self, data: bytes, position: int) -> None:
        if _BARE_LF.search(data, position + self._scanned):
            raise HTTPViolation("line feed without carriage return")
        size = len(data) - position
        if size > MAX_START_LINE and data.find(b"\r\n", position, position + MAX_START_LINE + 2) < 0:
            raise HTTPViolation("start line too long", self.start_line_too_long)
        if size > MAX_HEAD:
            raise HTTPViolation("header block too large", 431)

    def _take_head(self, start_line: bytes, headers: Fields) -> RequestReceived | ResponseReceived:
        raise NotImplementedError

    def _begin_body(self, event: RequestReceived | ResponseReceived) -> None:
        framing = event.framing
        if event.length:
            self._remaining, self._state = event.length, _LENGTH
        elif framing is NO_BODY or framing is Framing.LENGTH:
            if not event.informational:
                self._end()
        elif framing is CHUNKED:
            self._state = _CHUNK_LINE
        else:
            self._state = _UNTIL_CLOSE

    def _end(self, trailers: Headers = ()) -> None:
        self._events.append(MessageEnded(trailers) if trailers else _ENDED)
        self._state = _NOTHING

    def _read_length(self, data: bytes, position: int) -> int:
        piece = data[position : position + self._remaining]
        self._remaining -= len(piece)
        self._events.append(BodyReceived(piece))
        if not self._remaining:
            self._end()
        return position + len(piece)

    def _read_until_close(self, data: bytes, position: int) -> int:
        self._events.append(BodyReceived(data[position:] if position else data))
        return len(data)

    def _read_chunk_size(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position, position + _MAX_CHUNK_LINE)
        if end < 0:
            if len(data) - position >= _MAX_CHUNK_LINE or b"\n" in data[position:]:
                raise HTTPViolation("malformed chunk size")
            return -1
        size = data[position:end]
        if self.lenient_chunks:
            size, semicolon, extension = size.partition(b";")
            if semicolon:
                size = size.rstrip(b" \t")
            if _FORBIDDEN.search(extension):
                raise HTTPViolation("malformed chunk extension")
        if _CHUNK_SIZE.fullmatch(size) is None:
            raise HTTPViolation("malformed chunk size")
        self._remaining = int(size, 16)
        self._state = _CHUNK if self._remaining else _TRAILERS
        return end + 2

    def _read_chunk(self, data: bytes, position: int) -> int:
        piece = data[position : position + self._remaining]
        self._remaining -= len(piece)
        self._events.append(BodyReceived(piece))
        if not self._remaining:
            self._state = _CHUNK_END
        return position + len(piece)

    def _read_chunk_end(self, data: bytes, position: int) -> int:
        if not b"\r\n".startswith(data[position : position + 2]):
            raise HTTPViolation("chunk longer than its size")
        if len(data) - position < 2:
            return -1
        self._state = _CHUNK_LINE
        return position + 2

    def _read_trailers(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self._end()
            return position + 2
        end = data.find(b"\r\n\r\n", position + self._scanned)
        if end < 0:
            if len(data) - position > MAX_HEAD:
                raise HTTPViolation("trailers too large", 431)
            if _BARE_LF.search(data, position + self._scanned):
                raise HTTPViolation("line feed without carriage return")
            self._scanned = max(len(data) - position - 3, 0)
            return -1
        self._scanned = 0
        block = data[position:end]
        self._end(tuple(parse_block(block)))
        return end + 4


class RequestReader(MessageReader):
    """The server's reader. Emits `RequestReceived`, `BodyReceived`…, `MessageEnded`, then waits."""

    start_line_too_long = 414

    def _take_head(self, start_line: bytes, headers: Fields) -> RequestReceived:
        method, target, version = _read_request_line(start_line)
        return RequestReceived(method, target, version, headers, *request_framing(version, headers))


class ResponseReader(MessageReader):
    """The client's reader. Say `expect` before each answer: what a body is depends on the request's method."""

    lenient_chunks = True  # RFC 9112 7.1.1: a recipient ignores extensions it does not know

    def __init__(self) -> None:
        super().__init__()
        self._method = b"GET"
        self._state = _NOTHING

    def expect(self, method: bytes) -> None:
        """A request with this method has been sent."""
        if method != self._method:
            self._method, self._last = method, None  # the same head would be read in another way
        self.next_message()

    def _take_head(self, start_line: bytes, headers: Fields) -> ResponseReceived:
        version, status, reason = _read_status_line(start_line)
        if status == 101:
            raise HTTPViolation("switched protocols without being asked")
        if status < 200:
            return ResponseReceived(status, reason, version, headers, NO_BODY)
        framing, length = response_framing(self._method, status, version, headers)
        keep_alive = version == b"1.1"
        if b"connection" in headers.by_name:
            options = tokens(headers, b"connection")
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        keep_alive = keep_alive and framing is not Framing.CLOSE
        return ResponseReceived(status, reason, version, headers, framing, length, keep_alive)


@functools.lru_cache(maxsize=_KEPT_START_LINES)
def _read_request_line(start_line: bytes) -> tuple[bytes, bytes, bytes]:
    line = _REQUEST_LINE.fullmatch(start_line)
    if line is None:
        raise HTTPViolation("malformed request line")
    return line[1], line[2], line[3]


@functools.lru_cache(maxsize=_KEPT_START_LINES)
def _read_status_line(start_line: bytes) -> tuple[bytes, int, bytes]:
    line = _STATUS_LINE.fullmatch(start_line)
    if line is None:
        raise HTTPViolation("malformed status line")
    return line[1], int(line[2]), line[3] or b""


def request_framing(version: bytes, headers: Fields) -> tuple[Framing, int]:
    """How the body of a request ends. Raises `HTTPViolation` for whatever could be read in two ways."""
    length = content_length(headers)
    codings = headers.by_name.get(b"transfer-encoding")
    if not codings:
        return (NO_BODY, 0) if length is None else (Framing.LENGTH, length)
    if length is not None:
        raise HTTPViolation("Transfer-Encoding together with Content-Length")
    if version == b"1.0":
        raise HTTPViolation("Transfer-Encoding in HTTP/1.0")
    if len(codings) != 1 or codings[0].lower() != b"chunked":
        raise HTTPViolation("Transfer-Encoding other than chunked")
    return Framing.CHUNKED, 0


def response_framing(method: bytes, status: int, version: bytes, headers: Fields) -> tuple[Framing, int]:
    """How the body of an answer to `method` ends. Raises `HTTPViolation`."""
    length = content_length(headers)
    codings = headers.by_name.get(b"transfer-encoding")
    if codings and length is not None:
        raise HTTPViolation("Transfer-Encoding together with Content-Length")
    if method == b"HEAD" or status in (204, 304):
        return Framing.NONE, 0
    if codings:
        if len(codings) != 1 or codings[0].lower() != b"chunked" or version == b"1.0":
            raise HTTPViolation("Transfer-Encoding other than chunked")
        return Framing.CHUNKED, 0
    return (Framing.CLOSE, 0) if length is None else (Framing.LENGTH, length)


def content_length(headers: Fields) -> int | None:
    """The one Content-Length, or None. Raises `HTTPViolation` for lists, signs and repetitions."""
    lengths = headers.by_name.get(b"content-length")
    if not lengths:
        return None
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _MAX_LENGTH_DIGITS:
        raise HTTPViolation("malformed or repeated Content-Length")
    return int(lengths[0])
