"""The upstream side: each stream of the tunnel becomes a connection to the address of `--url`.

Push-based: what the tunnel stream receives is written to the socket in the same call, and the other way round; a full
one stops its feeder. Only dialling is awaited.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final
from uuid import UUID

from qanat.connector.config import UpstreamAddress
from qanat.connector.http1 import (
    AnswerEnded,
    AnswerReader,
    AnswerReceived,
    BodyReceived,
    content_length,
    is_chunked,
    request_head,
)
from qanat.errors import ProtocolError, QanatError
from qanat.logger import get_logger
from qanat.net.layer import HIGH_WATER, LOW_WATER
from qanat.net.transport import Receiver, Transport, as_protocol
from qanat.tunnel.connection import IncomingStream, ResponseHead, StreamKind

DIAL_TIMEOUT: Final = 10.0
log: Final = get_logger("qanat.connector")


class UpstreamHandler:
    """Serves a connector's streams by dialling the upstream, one socket for each stream."""

    def __init__(self, address: UpstreamAddress, connector_id: UUID, on_unreachable: Callable[[], None]) -> None:
        self.address = address
        self.connector_id = str(connector_id)
        self._on_unreachable = on_unreachable
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._dials: set[asyncio.Task[None]] = set()

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        """One end of a relay between `stream` and a new socket."""
        return _StreamEnd(self, stream)

    def start_dial(self, end: _StreamEnd) -> asyncio.Task[None]:
        """Dial for a stream; the task is ours until it is done."""
        task = asyncio.get_running_loop().create_task(self._dial(end))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return task

    async def _dial(self, end: _StreamEnd) -> None:
        limit = asyncio.get_running_loop().call_later(DIAL_TIMEOUT, end.dialled_in_vain)
        try:
            await self._connect(end)
        except OSError as error:
            end.refuse(explain(error))
        finally:
            limit.cancel()

    async def _connect(self, end: _StreamEnd) -> None:
        loop, address = asyncio.get_running_loop(), self.address
        if address.scheme == "unix":
            await loop.create_unix_connection(lambda: as_protocol(_SocketEnd(end)), address.path)
        else:
            await loop.create_connection(
                lambda: as_protocol(_SocketEnd(end)), address.host, address.port, ssl=self._tls
            )

    def serves(self, kind: StreamKind) -> bool:
        """Raw TCP goes only to an upstream configured as such: the edge must not choose where we dial."""
        return (kind is StreamKind.TCP) == (self.address.scheme == "tcp")

    def note_unreachable(self, reason: str) -> None:
        """Count and log a stream that got no answer."""
        self._on_unreachable()
        log.warn("Unable to reach the upstream", upstream=self.address.authority, error=reason)

    async def close(self) -> None:
        """Give up dials that are still under way."""
        dials = list(self._dials)
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)


class NowhereHandler:
    """Answers every stream with a bare 503, as cloudflared does when it was told of no upstream."""

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        """Nothing listens to the stream: it is over."""
        stream.respond(ResponseHead(503, ()))
        stream.close()
        return asyncio.Protocol()


class _StreamEnd:
    """Listens to the tunnel stream: sends on what it says, chunked where the request's length is unknown."""

    def __init__(self, handler: UpstreamHandler, stream: IncomingStream) -> None:
        self.handler, self.stream = handler, stream
        self.responded = self.lost = False
        self._socket: Transport | None = None
        self._dial: asyncio.Task[None] | None = None
        self._chunked = False
        self._left: int | None = None
        self._early, self._ended_early = b"", False

    def connection_made(self, transport: Transport) -> None:
        head = self.stream.head
        if not self.handler.serves(head.kind):
            self.refuse(f"the upstream takes no {head.kind.value} streams")
            return
        try:
            self._chunked = is_chunked(head)
            self._left = content_length(head) if head.kind is StreamKind.HTTP and not self._chunked else None
            self.request = b"" if head.kind is StreamKind.TCP else request_head(head, self.handler.connector_id)
        except ProtocolError as error:
            self.refuse(str(error))
            return
        self.stream.pause_reading()
        self._dial = self.handler.start_dial(self)

    def dialled(self, socket: Transport) -> None:
        """The upstream is there: send it the request and let the tunnel go on."""
        self._socket, self._dial = socket, None
        if self.lost:
            socket.abort()
            return
        if self.request:
            socket.write(self.request)
            self.request = b""
        else:
            self.respond(ResponseHead(200))
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)
        if self._ended_early:
            self._end_request()
        self.stream.resume_reading()

    def dialled_in_vain(self) -> None:
        """The time for dialling is over."""
        if self._dial is not None:  # else the upstream has the request already
            self._dial.cancel()
            self.refuse("timed out")

    def data_received(self, data: bytes) -> None:
        if self._socket is None:
            self._early += data
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.reset()
                return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._socket.write(data)

    def eof_received(self) -> bool | None:
        if self._socket is None:
            self._ended_early = True
        else:
            self._end_request()
        return self.stream.head.kind is StreamKind.HTTP  # the other kinds have no half-close

    def _end_request(self) -> None:
        assert self._socket is not None
        if self._chunked:
            self._chunked = False
            self._socket.write(b"0\r\n\r\n")
        elif self.stream.head.kind is not StreamKind.HTTP:
            self._socket.close()

    def pause_writing(self) -> None:
        if self._socket is not None:
            self._socket.pause_reading()

    def resume_writing(self) -> None:
        if self._socket is not None:
            self._socket.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._dial is not None:
            self._dial.cancel()
        if self._socket is not None:
            if exc is None and self.stream.head.kind is not StreamKind.HTTP:
                self._socket.close()
            else:
                self._socket.abort()

    # Called for the socket's side.

    def respond(self, head: ResponseHead) -> None:
        """Send the response head, once."""
        if not self.lost:
            self.responded = True
            self.stream.respond(head)

    def refuse(self, reason: str) -> None:
        """There will be no answer from the upstream: 502 of our own, or a reset if the head is out already."""
        if self.lost:
            return
        self.handler.note_unreachable(reason)
        if self.responded:
            self.stream.abort()
        else:
            self.respond(ResponseHead(502, from_upstream=False))
            self.stream.close()
        self.lost = True  # also for a socket that connects at this moment

    def reset(self) -> None:
        """Break off both sides."""
        self.stream.abort()
        if self._socket is not None:
            self._socket.abort()


class _SocketEnd:
    """Listens to the upstream's socket: turns its HTTP/1.1 answer into the stream's, or passes raw bytes."""

    socket: Transport

    def __init__(self, end: _StreamEnd) -> None:
        self._end, self._stream = end, end.stream
        self._reader = None if end.stream.head.kind is StreamKind.TCP else AnswerReader(end.stream.head.method)
        self._finished = False

    def connection_made(self, transport: Transport) -> None:
        self.socket = transport
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._end.dialled(transport)

    def data_received(self, data: bytes) -> None:
        if self._finished or self._end.lost:
            return
        if self._reader is None:
            self._stream.write(data)
            return
        try:
            self._reader.receive_data(data)
        except ProtocolError as error:
            self._hear()
            self._fail(str(error))
            return
        self._hear()

    def eof_received(self) -> bool | None:
        if self._reader is None or self._finished or self._end.lost:
            return False
        try:
            self._reader.receive_eof()
        except ProtocolError as error:
            self._fail(str(error))
            return False
        self._hear()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._finished or self._end.lost:
            return
        if exc is not None or (self._reader is not None and not self._reader.upgraded):
            self._fail(str(exc) if exc is not None else "the upstream closed before it had answered")
        else:
            self._stream.close()

    def pause_writing(self) -> None:
        self._stream.pause_reading()

    def resume_writing(self) -> None:
        if not self._end.lost:
            self._stream.resume_reading()

    def _hear(self) -> None:
        assert self._reader is not None
        for event in self._reader.events_received():
            if isinstance(event, BodyReceived):
                self._stream.write(event.data)
            elif isinstance(event, AnswerReceived):
                self._answer(event)
            elif isinstance(event, AnswerEnded):
                self._finish(event)
        if self._reader.upgraded:
            self._reader = None  # from here on nothing is parsed

    def _answer(self, answer: AnswerReceived) -> None:
        if answer.status == 101 and self._stream.head.kind is not StreamKind.WEBSOCKET:
            self._fail("the upstream switched protocols without being asked")
        else:
            self._end.respond(ResponseHead(answer.status, answer.headers))

    def _finish(self, event: AnswerEnded) -> None:
        self._finished = True
        if event.trailers:
            self._stream.write_trailers(event.trailers)
        else:
            self._stream.close()
        self.socket.close()

    def _fail(self, reason: str) -> None:
        if not self._finished:
            self._finished = True
            self._end.refuse(reason)
            self.socket.abort()


def explain(error: BaseException) -> str:
    """One line for a log: the sentence of an error of ours, or the system's words."""
    if isinstance(error, QanatError):
        return str(error)
    if isinstance(error, TimeoutError) and not str(error):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
