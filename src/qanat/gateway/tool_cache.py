"""Tool lists kept for a moment, apart for each organization, URL and token."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from qanat.gateway.access import Caller
from qanat.gateway.request import Server
from qanat.gateway.tools import Listing

MAX_ENTRIES = 1024
LONGEST = 300.0


class ToolCache:
    """Bounded; entries expire after the configured time or the server's own hint, whichever is shorter."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = min(lifetime, LONGEST)
        self._entries: OrderedDict[bytes, tuple[float, Listing]] = OrderedDict()

    def get(self, caller: Caller, server: Server, now: float) -> Listing | None:
        entry = self._entries.get(_key(caller, server))
        return entry[1] if entry is not None and now < entry[0] else None

    def put(self, caller: Caller, server: Server, listing: Listing, hint: float | None, now: float) -> None:
        lifetime = self._lifetime if hint is None else min(hint, self._lifetime)
        if lifetime <= 0:
            return
        key = _key(caller, server)
        self._entries[key] = (now + lifetime, listing)
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)


def _key(caller: Caller, server: Server) -> bytes:
    token = server.token.get_secret_value() if server.token is not None else ""
    parts = (*caller.scope, server.url, token)
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
