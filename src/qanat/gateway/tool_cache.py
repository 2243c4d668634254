"""Tool lists kept for a moment, apart for each organization, URL and token."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass

from qanat.gateway.access import Caller
from qanat.gateway.request import Server
from qanat.gateway.tools import Listing

MAX_ENTRIES = 1024
MAX_SIZE = 64 * 1024 * 1024
"""Characters of all lists together. One that would take a sixteenth of it is not kept: callers choose the servers."""
LONGEST = 300.0


@dataclass(frozen=True, slots=True)
class _Entry:
    expires: float
    listing: Listing
    size: int


class ToolCache:
    """Bounded; entries expire after the configured time or the server's own hint, whichever is shorter."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = min(lifetime, LONGEST)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size = 0

    def get(self, caller: Caller, server: Server, now: float) -> Listing | None:
        entry = self._entries.get(_key(caller, server))
        return entry.listing if entry is not None and now < entry.expires else None

    def put(self, caller: Caller, server: Server, listing: Listing, hint: float | None, now: float) -> None:
        lifetime = self._lifetime if hint is None else min(hint, self._lifetime)
        size = _size(listing)
        if lifetime <= 0 or size > MAX_SIZE // 16:
            return
        key = _key(caller, server)
        self._drop(key)
        self._entries[key] = _Entry(now + lifetime, listing, size)
        self._size += size
        while len(self._entries) > MAX_ENTRIES or self._size > MAX_SIZE:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._size -= entry.size


def _size(listing: Listing) -> int:
    return sum(len(tool.name) + len(tool.description or "") + len(json.dumps(tool.input_schema)) for tool in listing)


def _key(caller: Caller, server: Server) -> bytes:
    token = server.token.get_secret_value() if server.token is not None else ""
    parts = (*caller.scope, server.url, token)
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
