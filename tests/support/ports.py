"""Ports that stay one's own while nobody listens on them."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

LOWEST = 10_000


def free_port() -> int:
    """A loopback port that is free for TCP and UDP, now.

    It lies below those that the kernel hands out by itself, so that no connection which another test makes can take it
    before it is used, or while what listened on it is away.
    """
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = LOWEST + secrets.randbelow(max(handed_out, LOWEST + 1000) - LOWEST)
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket() as tcp,
        ):
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
            return port
