"""What the gateway knows about tunnels: records asked of the control plane, and doubted when it says they changed.

While the changes stream lives, what is known is fresh for a minute; without it, for a moment. When the control plane
does not answer, what was known goes on being true. Each workspace has answers of its own: a quick one would tell that
somebody else uses a tunnel.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from qanat.api.internal import Change, TunnelRecord
from qanat.errors import QanatError
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
FOLLOWED_LIFETIME = 60.0
BLIND_LIFETIME = 4.0
"""Seconds a record is used again without asking, with and without the changes stream."""
MAX_RECORDS = 4096
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0
"""Seconds between attempts to follow; short, because a change is to arrive within 5 s."""

Place = tuple[str, str, str]
"""Organization and workspace of who asks, and the tunnel's domain."""


class RecordSource(Protocol):
    """Where records come from. Raises `QanatError` when it cannot answer."""

    async def by_domain(self, domain: str) -> TunnelRecord | None: ...

    def changes(self, after: int | None) -> AsyncIterator[Change]: ...


@dataclass(slots=True)
class _Known:
    record: TunnelRecord | None
    expires: float


class Records:
    """`on_change` hears the domain of each tunnel that changed, and None when any may have."""

    def __init__(self, source: RecordSource, on_change: Callable[[str | None], Awaitable[None]]) -> None:
        self._source, self._on_change = source, on_change
        self._known: OrderedDict[Place, _Known] = OrderedDict()
        self._cursor: int | None = None
        self._generation = 0
        self.following = False
        """Whether the changes stream lives."""

    def known(self, place: Place) -> TunnelRecord | None:
        """What was last heard, however long ago."""
        known = self._known.get(place)
        return known.record if known is not None else None

    async def get(self, place: Place) -> TunnelRecord | None:
        """The tunnel with a domain; None when there is none. Raises `QanatError` for one never met, in an outage."""
        now = asyncio.get_running_loop().time()
        known = self._known.get(place)
        if known is not None and now < known.expires:
            return known.record
        generation = self._generation
        try:
            record = await self._source.by_domain(place[2])
        except QanatError:
            if known is None:
                raise
            return known.record
        lifetime = FOLLOWED_LIFETIME if self.following and record is not None else BLIND_LIFETIME
        # A change that was announced meanwhile may be newer than the answer: ask again next time.
        self._known[place] = _Known(record, now + lifetime if generation == self._generation else 0.0)
        self._known.move_to_end(place)
        while len(self._known) > MAX_RECORDS:
            self._known.popitem(last=False)
        return record

    async def follow(self) -> None:
        """Hear of changes until cancelled, through every outage."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                async for change in self._source.changes(self._cursor):
                    await self._apply(change)
                    self.following, backoff = True, FIRST_BACKOFF
            except Exception as error:
                if not isinstance(error, (QanatError, OSError)):  # a bug must not end the hearing of revocations
                    log.exception("a change could not be applied")
                if self.following:
                    log.warn("control plane lost, going on with what is known", error=str(error))
            self.following = False
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            backoff = min(MAX_BACKOFF, backoff * 2)

    async def _apply(self, change: Change) -> None:
        first, self._cursor = self._cursor is None, change.cursor
        if change.kind == "tunnel" and change.domain is not None:
            await self._doubt(change.domain)
        elif change.kind != "heartbeat" or first:
            await self._doubt(None)

    async def _doubt(self, domain: str | None) -> None:
        self._generation += 1
        for place, known in self._known.items():
            if domain is None or place[2] == domain:
                known.expires = 0.0
        await self._on_change(domain)
