"""The PROXY protocol, version 2: the client's address as its balancer saw it (haproxy.org proxy-protocol.txt 2.2)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from qanat.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_SIZE = 536
"""The longest header taken: the largest address block and some extensions."""
_HEADER = 16
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21


@dataclass(frozen=True, slots=True)
class ProxiedAddress:
    """The header's meaning; `address` is empty for the balancer's own health checks. `size` is the header's."""

    address: str
    size: int


def parse_proxy_header(data: bytes) -> ProxiedAddress | None:
    """The header at the start of `data`, None while it is incomplete. Raises `ProtocolError`."""
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise ProtocolError("no PROXY protocol header")
    if len(data) < _HEADER:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    size = _HEADER + length
    if size > MAX_SIZE:
        raise ProtocolError("PROXY protocol header too long")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxiedAddress("", size)
    width = {_TCP4: 4, _TCP6: 16}.get(family, 0)
    if command != _PROXY or not width or length < 2 * width + 4:
        raise ProtocolError("PROXY protocol header without a TCP address")
    return ProxiedAddress(str(ipaddress.ip_address(data[_HEADER : _HEADER + width])), size)
