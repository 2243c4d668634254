"""Ends sessions with MCP servers after whoever asked has been answered: nobody waits for a server's goodbye."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from qanat.gateway.mcp_link import Link

LAST_WORDS = 1.0
"""Seconds for all goodbyes together once the gateway stops."""
MAX_GOODBYES = 256
"""Sessions that may take their time to end at once; those beyond are dropped without a word."""


@dataclass
class Goodbyes:
    """Owns the links that are being closed. Close it with `aclose`, while the ways to the servers still stand."""

    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def say(self, link: Link) -> None:
        """End a link's session, soon."""
        room = len(self._tasks) < MAX_GOODBYES
        task = asyncio.create_task(link.close(goodbye=room), name="mcp goodbye")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Let those under way be said for a moment, and drop the others."""
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
