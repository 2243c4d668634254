"""A client's connection and a tunnel stream, joined: the edge's whole data plane once the upgrade is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from qanat.edge.errors import ConnectorUnreachable, EdgeRefused, NodeUnreachable
from qanat.edge.frames import BAD_GATEWAY, FrameTracker, close_frame, going_away_frame
from qanat.net.transport import Transport
from qanat.tunnel.connection import EdgeConnection, Headers, ResponseHead

_ACCEPTED: Final = ResponseHead(101)


class StreamEnd:
    """Listens to the tunnel stream. Until it is accepted it holds the answer for whoever opened it.

    `on_accepted` is called with the head the moment the proxy says 101, before any data, and must call `join`.
    """

    transport: Transport
    client: Transport

    def __init__(self, via: str, on_accepted: Callable[[StreamEnd, ResponseHead], None]) -> None:
        self.via = via
        """`local` or `node`: where the stream goes from here."""
        self.connection: EdgeConnection | None = None
        """The tunnel connection that carries it, when it is one of this node's."""
        self.answer: asyncio.Future[ResponseHead] = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_mark_seen)
        self._on_accepted = on_accepted
        self._joined = self._notice_due = False
        self.frames = FrameTracker()
        self.bytes_received = 0

    def join(self, client: Transport) -> None:
        """From now on what the tunnel sends goes to `client`."""
        self.client, self._joined = client, True

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def response_received(self, head: ResponseHead) -> None:
        if self.answer.done():
            return
        if head.status == 101:
            self._on_accepted(self, head)
            head = _ACCEPTED  # the answer stays as long as the stream does: without the headers
        self.answer.set_result(head)

    def trailers_received(self, trailers: Headers) -> None:
        """A WebSocket's answer has none."""

    def refused(self, refusal: EdgeRefused) -> None:
        """There will be no answer, and why."""
        if not self.answer.done():
            self.answer.set_exception(refusal)

    def data_received(self, data: bytes) -> None:
        if self._joined:  # else the body of a refusal, which nobody reads
            self.bytes_received += len(data)
            self.frames.feed(data)
            self.client.write(data)
            if self._notice_due:
                self.announce_going_away()

    def eof_received(self) -> bool:
        """The stream's end follows."""
        return False

    def pause_writing(self) -> None:
        if self._joined:
            self.client.pause_reading()

    def resume_writing(self) -> None:
        if self._joined:
            self.client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.refused(ConnectorUnreachable() if self.via == "local" else NodeUnreachable())
        if not self._joined:
            return
        hop = "connector" if self.via == "local" else "edge"
        if exc is not None and not self.explain(BAD_GATEWAY, f"connection_lost at {hop}"):
            self.client.abort()
        self.client.close()

    def announce_going_away(self) -> None:
        """Ask the client to finish and dial again, as soon as a frame fits in."""
        self._notice_due = not self.frames.at_boundary
        if not self._notice_due and not self.frames.closed:
            self.client.write(going_away_frame())

    def explain(self, close_code: int, reason: str) -> bool:
        """Tell the client why its stream ends, if a frame fits in now; True if it has been told."""
        if self.frames.closed:
            return True
        if not self.frames.at_boundary:
            return False
        self.client.write(close_frame(close_code, reason))
        self.frames.closed = True
        return True


class ClientEnd:
    """Listens to the client, once joined."""

    def __init__(self, stream: Transport, on_lost: Callable[[], None]) -> None:
        self._stream, self._on_lost = stream, on_lost
        self.bytes_received = 0

    def connection_made(self, transport: Transport) -> None:
        """Never called: it takes over a connection that stands."""

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        self._stream.write(data)

    def eof_received(self) -> bool:
        """One direction has ended: so does the other."""
        return False

    def pause_writing(self) -> None:
        self._stream.pause_reading()

    def resume_writing(self) -> None:
        self._stream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._stream.close()
        else:
            self._stream.abort()
        self._on_lost()


def _mark_seen(answer: asyncio.Future[ResponseHead]) -> None:
    if not answer.cancelled():
        answer.exception()  # whoever waited may have gone
