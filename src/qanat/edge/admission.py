"""Who a client is: by address before the handshake, by certificate after it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qanat.edge.config import ClientMapping
from qanat.ids import OrganizationID

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A client with a genuine certificate: its name for logs, and the organizations whose tunnels it may reach."""

    name: str
    fingerprint: str
    organizations: frozenset[OrganizationID] | None
    """None: every organization."""

    def may_reach(self, organization: OrganizationID) -> bool:
        """Whether tunnels of that organization exist for this client."""
        return self.organizations is None or organization in self.organizations

    @property
    def is_mapped(self) -> bool:
        """Whether any entry of the configuration speaks of this client."""
        return self.organizations is None or bool(self.organizations)


def is_allowed(address: str, networks: Iterable[Network]) -> bool:
    """Whether an IP address lies in one of `networks`; an IPv4 address may arrive mapped into IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in networks)


def identify(certificate: Mapping[str, Any], fingerprint: str, mappings: Iterable[ClientMapping]) -> ClientIdentity:
    """The identity behind a verified certificate, in the form of `SSLObject.getpeercert()`.

    Entries add up: a client is in every organization that an entry with one of its names, or its fingerprint, lists.
    """
    names = {name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")}
    organizations: set[OrganizationID] = set()
    everything = False
    for mapping in mappings:
        if mapping.fingerprint == fingerprint or (mapping.san is not None and mapping.san in names):
            if mapping.organizations == "*":
                everything = True
            else:
                organizations.update(OrganizationID(entry) for entry in mapping.organizations)
    name = min(names) if names else fingerprint[:16]
    return ClientIdentity(name, fingerprint, None if everything else frozenset(organizations))
