"""What can go wrong on the way through a tunnel, each error naming the hop where to look.

They are `httpx2.ConnectError`s as well, so that code which knows nothing of tunnels treats them as what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import httpx2

from qanat.errors import QanatError


@dataclass(eq=False)
class TunnelFailed(QanatError, httpx2.ConnectError):
    """No session with the server could be made. `hop` is `client`, `edge`, `connector` or `proxy`.

    `reason` is the stable code: one of the edge's, or `edge_unreachable`, `outer_tls_failed`, `bad_edge_answer`,
    `inner_tls_failed`, `server_certificate_refused`, `no_trusted_certificate`, `connect_timeout`.
    """

    code: ClassVar[str] = "tunnel_failed"
    status: ClassVar[int] = 502
    reason: str
    hop: str
    message: str
    may_retry: bool = False

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}, hop: {self.hop}]"
