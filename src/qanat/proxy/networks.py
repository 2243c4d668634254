"""How address lists are written in the proxy's file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from qanat.proxy.guard import InvalidNetwork, Network, parse_network


def _parse_networks(value: object) -> object:
    if not isinstance(value, list):
        raise PydanticCustomError("list_type", "a list is wanted")
    networks = []
    for index, item in enumerate(value):
        try:
            networks.append(item if isinstance(item, Network) else parse_network(str(item)))
        except InvalidNetwork:
            raise PydanticCustomError("cidr", "[{i}]: invalid IP or CIDR {v}", {"i": index, "v": f'"{item}"'}) from None
    return tuple(networks)


Networks = Annotated[tuple[Network, ...], BeforeValidator(_parse_networks)]
"""Networks and single addresses; host bits are ignored."""
