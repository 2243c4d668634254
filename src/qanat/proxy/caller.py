"""What an exchange asks of the side its request came from."""

from __future__ import annotations

from typing import Protocol

from qanat.net.http1 import Framing, ResponseReceived
from qanat.net.http1_fields import Headers, Outgoing
from qanat.proxy.errors import Reply


class Caller(Protocol):
    """The side the request came from: one HTTP/1.1 connection, or one HTTP/2 stream."""

    def send_informational(self, status: int, headers: Outgoing) -> None:
        """Send a 1xx head."""

    def send_head(self, response: ResponseReceived, headers: Outgoing, framing: Framing) -> None:
        """Send the answer's head. It and the body's pieces wait for `flush`: what comes together leaves together."""

    def send_body(self, data: bytes) -> None:
        """Send a piece of the body."""

    def send_end(self, trailers: Headers) -> None:
        """The answer is complete: send what waits, too."""

    def flush(self) -> None:
        """Send what waits."""

    def send_reply(self, reply: Reply, close: bool) -> None:
        """Send an answer of our own, whole; `close` says that no further request is wanted."""

    def abort(self) -> None:
        """End the answer so that nobody can take it for complete."""

    def pause_body(self) -> None:
        """Stop sending the request's body."""

    def resume_body(self) -> None:
        """Go on with it."""
