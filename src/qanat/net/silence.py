"""Far ends that vanish: a network that is gone sends no FIN, and an idle TCP connection would wait for it for ever."""

from __future__ import annotations

import contextlib
import socket

from qanat.net.transport import Transport


def notice_silence(transport: Transport, seconds: int) -> None:
    """Let the kernel end a TCP connection whose far end has vanished: no answer to data or to probes for so long."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = {
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): max(1, seconds // 2),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): max(1, seconds // 4),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 2,
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): seconds * 1000,
    }
    with contextlib.suppress(OSError):  # gone already
        for (level, option), value in options.items():
            sock.setsockopt(level, option, value)
