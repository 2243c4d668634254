"""What can go wrong with a connection, layer by layer.

Apart from the modules that raise them: those are compiled, and an exception with fields cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qanat.errors import ProtocolError, QanatError


@dataclass(eq=False)
class HTTPViolation(ProtocolError):
    """A message that is malformed, ambiguous or too large. `answer` is the status that says so to a client."""

    code: ClassVar[str] = "http_protocol_error"
    answer: int = 400


@dataclass(eq=False)
class TLSFailed(QanatError):
    """A TLS session could not be set up or was broken. `reason` is the peer's alert, or what we found wrong."""

    code: ClassVar[str] = "tls_failed"
    status: ClassVar[int] = 502
    reason: str
    by_peer: bool = False
    """True when `reason` is an alert that the peer sent."""

    def __str__(self) -> str:
        return f"tls: {self.reason}"


@dataclass(eq=False)
class TLSTruncated(QanatError):
    """The peer vanished without `close_notify`: whatever was last received may be incomplete (RFC 8446 6.1)."""

    code: ClassVar[str] = "tls_truncated"
    status: ClassVar[int] = 502
    retryable: ClassVar[bool] = True

    def __str__(self) -> str:
        return "tls session ended without close_notify"


@dataclass(eq=False)
class WebSocketClosed(QanatError):
    """The WebSocket ended in a way that may have cut its stream short. 1006: without a Close frame."""

    code: ClassVar[str] = "websocket_closed"
    status: ClassVar[int] = 502
    retryable: ClassVar[bool] = True
    close_code: int
    reason: str = ""

    def __str__(self) -> str:
        return f"websocket closed with code {self.close_code}" + (f": {self.reason}" if self.reason else "")
