"""Which addresses the proxy may dial: the defence against server-side request forgery.

Pure judgement. It is asked about every address right before it is dialled, and the address that passed is the address
that is dialled, so a name cannot change its mind in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""RFC 1918: what may be dialled unless the operator says otherwise."""

_GUARDED = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
"""`This` network, link-local with the cloud metadata services, multicast, reserved. Only a narrow entry opens these."""
_NARROW = 16


class InvalidNetwork(ValueError):
    """An allow-list entry that is no IPv4 address or network."""


def parse_network(text: str) -> IPv4Network:
    """An allow-list entry: a network or a single address. Raises `InvalidNetwork`; host bits are ignored."""
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidNetwork(text) from error
    if not isinstance(network, IPv4Network):
        raise InvalidNetwork(text)
    return network


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Judges addresses. `allowed=None` lets everything pass: `disable_ip_validation`."""

    allowed: tuple[IPv4Network, ...] | None = tuple(IPv4Network(text) for text in PRIVATE)

    def permits(self, address: str) -> bool:
        """Whether this address may be dialled. What is not a plain address is not permitted."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address):
            mapped = parsed.ipv4_mapped
            if mapped is None:
                return self.allowed is None
            parsed = mapped
        return self.allowed is None or _permits(self.allowed, parsed)

    def first_permitted(self, addresses: Sequence[str]) -> str | None:
        """The first address that may be dialled."""
        return next((address for address in addresses if self.permits(address)), None)

    def narrowed(self, networks: Sequence[IPv4Network]) -> AddressGuard:
        """A guard for one route. The networks must lie inside this guard's: see `covers`."""
        return AddressGuard(tuple(networks))

    def covers(self, network: IPv4Network) -> bool:
        """Whether every address of `network` is inside one of the allowed networks."""
        return self.allowed is None or any(network.subnet_of(outer) for outer in self.allowed)

    def describe(self) -> str:
        """The allow list, for a log line."""
        return "any" if self.allowed is None else ",".join(map(str, self.allowed))


def _permits(allowed: tuple[IPv4Network, ...], address: IPv4Address) -> bool:
    if not any(address in network for network in allowed):
        return False
    for block in _GUARDED:
        if address in block:
            return any(address in network and network.prefixlen >= _NARROW for network in allowed)
    return True
