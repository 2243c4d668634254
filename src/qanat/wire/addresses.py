"""Addresses: how they are written beside a port, and the IPv6 ones that lead to an IPv4 host.

Who judges an address must judge that host. Mapped and compatible (RFC 4291 2.5.5), 6to4 (RFC 3056) and NAT64
(RFC 6052, with the local prefix of RFC 8215).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

_LAST_32_BITS = tuple(
    IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
_6TO4 = IPv6Network("2002::/16")
_OWN = (IPv6Address("::"), IPv6Address("::1"))


def join_host_port(host: str, port: int | str) -> str:
    """`host:port`, with brackets around an IPv6 address (RFC 3986 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address at which a connection to `address` ends."""
    if isinstance(address, IPv4Address) or address in _OWN:
        return address
    if address in _6TO4:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    if any(address in network for network in _LAST_32_BITS):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
