"""Plain HTTP/1.1 for the few questions the proxy answers itself: health, metrics, and whoever forgot to upgrade."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qanat.errors import ProtocolError
from qanat.net.http1 import RequestReader, RequestReceived
from qanat.net.http1_fields import Header, encode_head
from qanat.net.transport import Receiver, Transport
from qanat.proxy.errors import BadRequest, Reply, to_reply

HEAD_TIMEOUT = 10.0
"""Seconds a client has to send its request's head."""
_REASONS = {200: b"OK", 404: b"Not Found", 426: b"Upgrade Required", 503: b"Service Unavailable"}


def text_reply(status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> Reply:
    """A short answer."""
    body = text.encode()
    headers: tuple[Header, ...] = (
        (b"Content-Type", content_type.encode("ascii")),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
    )
    return Reply(status, headers, body)


class PlainConnection(Receiver):
    """Answers one request and closes. `answer` is given its head; a body is not wanted."""

    transport: Transport

    def __init__(self, answer: Callable[[RequestReceived], Reply]) -> None:
        self._answer = answer
        self._reader = RequestReader()
        self._done = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        try:
            self._reader.receive_data(data)
        except ProtocolError as violation:
            self.reply(to_reply(BadRequest(violation.reason), "-"))
            return
        for event in self._reader.events_received():
            if isinstance(event, RequestReceived):
                self._done = True
                self._stop_timer()
                self.hear(event)
                return

    def hear(self, request: RequestReceived) -> None:
        """The request is there."""
        self.reply(self._answer(request), without_body=request.method == b"HEAD")

    def reply(self, reply: Reply, without_body: bool = False) -> None:
        """Send an answer and close."""
        self._done = True
        reason = reply.reason or _REASONS.get(reply.status, b"")
        head = encode_head(b"HTTP/1.1 %d %b" % (reply.status, reason), _closing(reply.headers))
        self.transport.write(head if without_body else head + reply.body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _closing(headers: tuple[Header, ...]) -> tuple[Header, ...]:
    if any(name == b"Connection" for name, _ in headers):
        return headers
    return (*headers, (b"Connection", b"close"))
