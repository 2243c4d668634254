"""From a hostname to a route. Pure: no address is looked up here, and path and query play no part."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

R = TypeVar("R")

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOSTNAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AUTHORITY: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?")


class BadHost(ValueError):
    """The Host or :authority of a request makes no sense."""


@dataclass(frozen=True)
class Authority:
    """Host and port of a request. `host` is lower case and has no trailing dot; `port` is 443 unless named."""

    host: str
    port: int = 443

    @functools.cached_property
    def encoded(self) -> bytes:
        """As it is written in a field."""
        return str(self).encode("ascii")

    def __str__(self) -> str:
        return self.host if self.port == 443 else f"{self.host}:{self.port}"


def parse_authority(text: str) -> Authority:
    """Read a `Host` value. Raises `BadHost`."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise BadHost(text)
    host, port = match[1].lower(), int(match[2]) if match[2] else 443
    if not host.startswith("["):
        host = host.removesuffix(".")
        if not _HOSTNAME.fullmatch(host):
            raise BadHost(text)
    if len(host) > 253:
        raise BadHost(text)
    if not 0 < port < 65536:
        raise BadHost(text)
    return Authority(host, port)


def is_hostname(text: str) -> bool:
    """Whether `text` is a lower-case DNS name."""
    return len(text) <= 253 and _HOSTNAME.fullmatch(text) is not None


class RouteTable(Generic[R]):
    """Route keys: full hostnames, or names below the tunnel domain."""

    def __init__(self, routes: Mapping[str, R], tunnel_domain: str = "") -> None:
        self._routes = {key.lower(): route for key, route in routes.items()}
        self._suffix = f".{tunnel_domain.lower()}" if tunnel_domain else ""
        below = {f"{key}{self._suffix}": route for key, route in self._routes.items()} if self._suffix else {}
        self._by_host = below | self._routes

    def match(self, host: str) -> R | None:
        """The route for a normalised hostname: an exact key first, then the name below the tunnel domain."""
        return self._by_host.get(host)

    def serves_both(self, one: str, other: str) -> bool:
        """Whether one TLS session may carry requests for both names (RFC 9110 section 7.4 allows to say no)."""
        below = bool(self._suffix) and one.endswith(self._suffix) and other.endswith(self._suffix)
        return below or (one in self._routes and other in self._routes)
