"""Names of MCP tools as a model sees them.

On the wire the two parts travel apart (`server_name`, `name`); models know one flat name space with a narrow alphabet.
The mapping is deterministic, so that replays of a conversation hit the upstream's prompt cache.
"""

from __future__ import annotations

import hashlib
import re

MAX_LENGTH = 64
_UNSAFE = re.compile(r"[^a-zA-Z0-9_-]")


def compose(server: str, tool: str) -> str:
    """`{server}_{tool}` in the alphabet every upstream takes, at most 64 characters."""
    full = f"{server}_{tool}"
    safe = _UNSAFE.sub("_", full)
    if len(safe) <= MAX_LENGTH:
        return safe
    digest = hashlib.sha256(full.encode("utf-8", "surrogatepass"))  # JSON may hold half of a surrogate pair
    return f"{safe[:55]}_{digest.hexdigest()[:8]}"


def to_wire_id(upstream_id: str) -> str:
    """The id of an MCP call on our wire, made from the one the upstream knows."""
    return f"mcptoolu_{upstream_id.removeprefix('toolu_')}"


def to_upstream_id(wire_id: str) -> str:
    """The upstream's own id back again: replays must match it byte for byte."""
    return f"toolu_{wire_id.removeprefix('mcptoolu_').removeprefix('srvtoolu_')}"


def to_search_id(upstream_id: str) -> str:
    """The id of a tool search on our wire."""
    return f"srvtoolu_{upstream_id.removeprefix('toolu_')}"
