"""Looking for what must not be there: in a process's memory, and in the packets of a port."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

ETH_P_ALL = 3
CHUNK = 4 * 1024 * 1024


def forms(secret: bytes) -> list[bytes]:
    """A secret as it is, in hex, and in base64 at each alignment (without the characters its neighbours change)."""
    found = [secret, secret.hex().encode()]
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        found.append(encoded[4 if shift else 0 : len(encoded) - 4])
    return found


def hits(data: bytes, secrets: Iterable[bytes]) -> list[bytes]:
    """Which of the secrets are in the data, in any form."""
    return [secret for secret in secrets if any(form in data for form in forms(secret))]


def memory_hits(pid: int, secrets: list[bytes]) -> tuple[list[bytes], int]:
    """Which secrets are in a process's readable memory, and how many bytes were looked at."""
    found: set[bytes] = set()
    looked_at = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions = line.split()[:2]
            if not permissions.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            tail = b""
            for position in range(start, end, CHUNK):
                try:
                    memory.seek(position)
                    piece = memory.read(min(CHUNK, end - position))
                except (OSError, ValueError, OverflowError):
                    break
                looked_at += len(piece)
                found.update(hits(tail + piece, secrets))
                tail = piece[-256:]
    return sorted(found), looked_at


class Capture:
    """Every packet on loopback from or to some TCP or UDP ports. Needs root."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = {port.to_bytes(2, "big") for port in ports}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024 * 1024)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self.data = bytearray()
        self.packets = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    async def __aenter__(self) -> Capture:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        self._socket.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                packet = self._socket.recv(65536 + 64)
            except TimeoutError:
                continue
            header = 14 + (packet[14] & 0x0F) * 4  # Ethernet, then IPv4
            if packet[header : header + 2] in self._ports or packet[header + 2 : header + 4] in self._ports:
                self.packets += 1
                self.data += packet[header:]
