"""What a peer can do wrong in frames.

Apart from the modules that raise them: those are compiled, and an exception with fields cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qanat.errors import ProtocolError


@dataclass(eq=False)
class WebSocketViolation(ProtocolError):
    """The peer broke the protocol; `close_code` is what to tell it."""

    code: ClassVar[str] = "websocket_protocol_error"
    close_code: int = 1002
