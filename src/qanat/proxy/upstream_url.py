"""The one way to write an upstream: `scheme://host:port` and nothing more.

The port is always there and numbers are written in one way only, so that what an operator reads is what is dialled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from qanat.errors import QanatError
from qanat.wire.addresses import join_host_port

INVALID = "invalid upstream (must be scheme://host:port)"
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([1-9][0-9]{0,4})")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)")


class UpstreamInvalid(QanatError, ValueError):
    """A route's value is not `scheme://host:port`."""

    code = "upstream_invalid"

    def __str__(self) -> str:
        return INVALID


@dataclass(frozen=True, slots=True)
class UpstreamURL:
    """Where a route leads. `host` is lower case and without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port, as they stand in a `Host` header: always with the port."""
        return join_host_port(self.host, self.port)

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host as a number, if it is one."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return self.scheme if self == STDIO else f"{self.scheme}://{self.authority}"


STDIO = UpstreamURL("stdio", "stdio", 0)
"""Stands for a program that the proxy runs itself: nothing to dial."""


def parse_upstream(text: str) -> UpstreamURL:
    """Read `scheme://host:port`. Raises `UpstreamInvalid`; decimal, octal, hex and short addresses are refused."""
    match = _URL.fullmatch(text)
    if match is None:
        raise UpstreamInvalid
    scheme, host, port = match[1], match[2].lower(), int(match[3])
    if port > 65535 or not _is_host(host):
        raise UpstreamInvalid
    return UpstreamURL(scheme, host.strip("[]"), port)


def _is_host(host: str) -> bool:
    if host.startswith("["):
        return _parses(IPv6Address, host[1:-1])
    labels = host.removesuffix(".").split(".")
    if _NUMERIC.fullmatch(labels[-1]):  # then a resolver would read it as an address, in one of its many spellings
        return _parses(IPv4Address, host)
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _parses(kind: type[IPv4Address] | type[IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
