"""Which addresses the proxy may dial: the defence against server-side request forgery.

Pure judgement. It is asked about every address right before it is dialled, and the address that passed is the address
that is dialled, so a name cannot change its mind in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

from qanat.wire.addresses import reached

Family = Literal["ipv4", "ipv6"]
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

PRIVATE: Final[dict[Family, tuple[Network, ...]]] = {
    "ipv4": tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
    "ipv6": (IPv6Network("fc00::/7"),),
}
"""RFC 1918 and RFC 4193: what may be dialled unless the operator says otherwise."""

_GUARDED: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/128", "fe80::/10", "ff00::/8"),
        *("fd00:ec2::/32", "fd20:ce::/32", "fd00:c1::/32"),
    )
)
"""Unspecified, link-local, multicast, reserved, and where clouds have their metadata services: 169.254.0.0/16, and the
private IPv6 networks of AWS, Google and Oracle. Only a narrow entry opens these."""
_NARROW: Final = {4: 16, 6: 112}
"""The shortest prefix of an entry that opens what is guarded."""


class InvalidNetwork(ValueError):
    """An allow-list entry that is no address or network."""


def parse_network(text: str) -> Network:
    """An allow-list entry: a network or a single address. Raises `InvalidNetwork`; host bits are ignored."""
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidNetwork(text) from error


def private(families: Iterable[Family]) -> tuple[Network, ...]:
    """The private networks of these families."""
    return tuple(network for family in families for network in PRIVATE[family])


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Judges addresses. `allowed=None` lets everything pass: `disable_ip_validation`."""

    allowed: tuple[Network, ...] | None = PRIVATE["ipv4"]

    def permits(self, address: str) -> bool:
        """Whether this address may be dialled. What is not a plain address is not permitted."""
        parsed = _parse(address)
        return parsed is not None and (self.allowed is None or _permits(self.allowed, parsed))

    def permitted(self, addresses: Iterable[str]) -> list[str]:
        """Those that may be dialled, as the system writes them; an IPv4-mapped one as what it stands for."""
        return [str(_parse(address)) for address in addresses if self.permits(address)]

    def narrowed(self, networks: Sequence[Network]) -> AddressGuard:
        """A guard for one route. The networks must lie inside this guard's: see `covers`."""
        return AddressGuard(tuple(networks))

    def covers(self, network: Network) -> bool:
        """Whether every address of `network` is inside one of the allowed networks."""
        return self.allowed is None or any(_lies_in(network, outer) for outer in self.allowed)

    def describe(self) -> str:
        """The allow list, for a log line."""
        return "any" if self.allowed is None else ",".join(map(str, self.allowed))


def _parse(text: str) -> Address | None:
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def _lies_in(network: Network, outer: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(outer, IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, IPv6Network) and network.subnet_of(outer)


def _permits(allowed: Sequence[Network], address: Address) -> bool:
    prefixes = [network.prefixlen for network in allowed if address in network]
    if not prefixes:
        return False
    if max(prefixes) >= _NARROW[address.version]:
        return True
    end = reached(address)  # NAT64 and 6to4 lead to an IPv4 host, which is judged as itself
    return not any(address in block for block in _GUARDED) and (end == address or _permits(allowed, end))
