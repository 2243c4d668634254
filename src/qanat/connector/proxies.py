"""Which HTTP proxy to leave through, as `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


def proxy_for(host: str, port: int, environment: Mapping[str, str]) -> str | None:
    """The proxy's URL for `host`, or None to go directly. Lower-case names win, as with curl.

    `NO_PROXY` holds names (with their subdomains), addresses, networks in CIDR notation, each perhaps with a port, or
    `*` for everything.
    """
    url = _get(environment, "https_proxy") or _get(environment, "all_proxy")
    if not url or any(_matches(entry.strip(), host, port) for entry in _get(environment, "no_proxy").split(",")):
        return None
    return url


def _get(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _matches(entry: str, host: str, port: int) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    host = host.lower().strip("[]").rstrip(".")
    if _is_network(entry):
        return _is_in_network(entry, host)
    name, colon, number = entry.lower().rpartition(":")
    if colon and number.isdigit():
        if int(number) != port:
            return False
        entry = name
    name = entry.lower().strip("[]").lstrip("*").strip(".")
    return host == name or host.endswith(f".{name}")


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return True


def _is_in_network(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
