"""What can go wrong on the way through a tunnel, each error naming the hop where to look.

They are `httpx2` errors as well, so that code which knows nothing of tunnels treats them as what they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import httpx2

from qanat.errors import QanatError
from qanat.net.errors import WebSocketClosed


@dataclass(eq=False)
class TunnelError(QanatError):
    """A hop failed. `hop` is `client`, `edge`, `connector` or `proxy`, and `reason` a stable code."""

    code: ClassVar[str] = "tunnel_error"
    status: ClassVar[int] = 502
    reason: str
    hop: str
    message: str
    may_retry: bool = False
    """Whether the same may work when it is tried again."""

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}, hop: {self.hop}]"


@dataclass(eq=False)
class TunnelFailed(TunnelError, httpx2.ConnectError):
    """No session with the server could be made; nothing of a request was sent.

    `reason` is one of the edge's codes, or `edge_unreachable`, `outer_tls_failed`, `bad_edge_answer`,
    `inner_tls_failed`, `server_certificate_refused`, `no_trusted_certificate`, `connect_timeout`.
    """

    code: ClassVar[str] = "tunnel_failed"


@dataclass(eq=False)
class TunnelLost(TunnelError, httpx2.ReadError):
    """A session broke, and what was under way on it has no answer. The server may have begun to work on it.

    `reason` is `connection_lost`, or what the edge said as it ended the session: `edge_draining`, `tunnel_archived`
    or `idle`.
    """

    code: ClassVar[str] = "tunnel_lost"


_FAREWELL = re.compile(r"([a-z_]{1,64}) at (edge|connector|proxy)")
_FOR_GOOD = ("tunnel_archived",)


def to_lost(error: Exception, closed: WebSocketClosed | None) -> TunnelLost:
    """What a broken session means. `closed` is how its WebSocket ended, when that was not as it should be.

    An edge that goes without a word (a killed process, a network that is gone) leaves no Close frame.
    """
    if closed is not None and (said := _FAREWELL.fullmatch(closed.reason)):
        reason, hop = said.groups()
        return TunnelLost(reason, hop, f"the session was ended: {reason.replace('_', ' ')}", reason not in _FOR_GOOD)
    hop = "edge" if closed is not None or isinstance(error, OSError) else "proxy"
    return TunnelLost("connection_lost", hop, f"the session broke: {error}", may_retry=True)
