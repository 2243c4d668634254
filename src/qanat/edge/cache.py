"""What this edge knows about tunnels: a cache in front of the control plane that outlives it.

While the changes stream is alive, whatever is known is fresh. When it is not, what was known goes on being true
(fail static): only tunnels never met before cannot be served then.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from qanat.api.internal import Change, TunnelRecord
from qanat.edge.directory import TunnelDirectory
from qanat.edge.errors import DirectoryUnavailable
from qanat.errors import QanatError
from qanat.logger import get_logger

MAX_TUNNELS = 100_000
NEGATIVE_SECONDS = 2.0
"""How long an unknown domain or id stays unknown without asking again."""
MAX_NEGATIVE = 10_000
ASK_TIMEOUT = 4.0
AT_ONCE = 16
"""Questions asked in parallel after a reset."""
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0
"""Seconds between attempts to follow the changes; short, because a rotated token is to be refused within 5 s."""

_log = get_logger("qanat.edge")


@dataclass(slots=True)
class _Entry:
    record: TunnelRecord
    outdated: bool = False
    """A change was announced that we have not fetched yet."""


class CachedDirectory:
    """Answers from memory, asks `source` for the rest, and follows its changes while `run` runs.

    `on_change` hears every record that was fetched again because it changed. `in_use` names the tunnels that are to be
    looked at again at once when everything may have changed; the others follow when they are next asked for.
    """

    def __init__(
        self,
        source: TunnelDirectory,
        on_change: Callable[[TunnelRecord], None],
        in_use: Callable[[], Iterable[UUID]] = tuple,
    ) -> None:
        self._source, self._on_change, self._in_use = source, on_change, in_use
        self._by_uuid: OrderedDict[UUID, _Entry] = OrderedDict()
        self._uuid_of: dict[str, UUID] = {}
        self._absent: OrderedDict[UUID | str, float] = OrderedDict()
        self._asking: dict[UUID | str, asyncio.Task[TunnelRecord | None]] = {}
        self._cursor: int | None = None
        self._overtaken: set[UUID | str] = set()
        """What is being asked and has changed since: the answer under way may be older than the change."""
        self.following = False
        """Whether the changes stream is alive."""

    def known_by_domain(self, domain: str) -> TunnelRecord | None:
        """The record if it is known and fresh, without asking anybody."""
        uuid = self._uuid_of.get(domain)
        entry = None if uuid is None else self._by_uuid.get(uuid)
        return None if entry is None or (entry.outdated and self.following) else entry.record

    async def by_domain(self, domain: str) -> TunnelRecord | None:
        """The tunnel with this domain, None when there is none. Raises `DirectoryUnavailable`."""
        uuid = self._uuid_of.get(domain)
        return await (self._ask(domain) if uuid is None else self.by_uuid(uuid))

    async def by_uuid(self, uuid: UUID) -> TunnelRecord | None:
        """The tunnel with this wire id, None when there is none. Raises `DirectoryUnavailable`."""
        entry = self._by_uuid.get(uuid)
        if entry is None:
            return await self._ask(uuid)
        if entry.outdated and self.following:
            try:
                return await self._ask(uuid)
            except DirectoryUnavailable:
                return entry.record
        self._by_uuid.move_to_end(uuid)
        return entry.record

    async def _ask(self, key: UUID | str) -> TunnelRecord | None:
        """Ask the source, once for all who wait for the same answer."""
        if self._absent.get(key, 0.0) > asyncio.get_running_loop().time():
            return None
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    def _asked(self, key: UUID | str, task: asyncio.Task[TunnelRecord | None]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited has gone

    async def _fetch(self, key: UUID | str) -> TunnelRecord | None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                record = await self._question(key)
        except (QanatError, OSError) as error:  # TimeoutError is an OSError
            _log.warn("control plane did not answer", error=str(error) or type(error).__name__)
            raise DirectoryUnavailable from error
        if record is None:
            self._remember_absent(key)
        else:
            self._remember(record)
        return record

    async def _question(self, key: UUID | str) -> TunnelRecord | None:
        while True:
            self._overtaken.discard(key)
            record = await (self._source.by_uuid(key) if isinstance(key, UUID) else self._source.by_domain(key))
            if key not in self._overtaken:
                return record

    def _remember(self, record: TunnelRecord) -> None:
        self._by_uuid[record.uuid] = _Entry(record)
        self._by_uuid.move_to_end(record.uuid)
        self._uuid_of[record.domain] = record.uuid
        self._absent.pop(record.uuid, None)
        self._absent.pop(record.domain, None)
        if len(self._by_uuid) > MAX_TUNNELS:
            _, entry = self._by_uuid.popitem(last=False)
            self._uuid_of.pop(entry.record.domain, None)

    def _remember_absent(self, key: UUID | str) -> None:
        self._absent[key] = asyncio.get_running_loop().time() + NEGATIVE_SECONDS
        if len(self._absent) > MAX_NEGATIVE:
            self._absent.popitem(last=False)

    async def run(self) -> None:
        """Follow the changes for ever, through every outage."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                async for change in self._source.changes(self._cursor):
                    if not self.following:
                        _log.info("following the control plane", cursor=change.cursor)
                    self.following, backoff = True, FIRST_BACKOFF
                    await self._apply(change)
            except Exception as error:
                if not isinstance(error, (QanatError, OSError)):  # a bug must not end the hearing of revocations
                    _log.exception("a change could not be applied")
                if self.following or backoff == FIRST_BACKOFF:
                    _log.warn("control plane lost, going on with what is known", error=str(error))
            self.following = False
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            backoff = min(MAX_BACKOFF, backoff * 2)

    async def _apply(self, change: Change) -> None:
        first, self._cursor = self._cursor is None, change.cursor
        if change.kind == "tunnel":
            self._outdate(change.tunnel_uuid, change.domain)
            if change.tunnel_uuid is not None and change.tunnel_uuid in self._by_uuid:
                await self._refetch(change.tunnel_uuid)
        elif change.kind == "reset" or first:  # before the first cursor we may have missed changes too
            for uuid, entry in self._by_uuid.items():
                self._outdate(uuid, entry.record.domain)
            self._absent.clear()
            in_use = [uuid for uuid in self._in_use() if uuid in self._by_uuid]
            for start in range(0, len(in_use), AT_ONCE):
                await asyncio.gather(*map(self._refetch, in_use[start : start + AT_ONCE]))

    def _outdate(self, uuid: UUID | None, domain: str | None) -> None:
        """Whatever we know or are about to hear of a tunnel is not to be trusted any more."""
        if uuid is not None and uuid in self._by_uuid:
            self._by_uuid[uuid].outdated = True
        for key in (uuid, domain):
            if key is not None:
                self._absent.pop(key, None)
                if key in self._asking:
                    self._overtaken.add(key)

    async def _refetch(self, uuid: UUID) -> None:
        try:
            record = await self._ask(uuid)
        except DirectoryUnavailable:
            return  # stays outdated, and is asked for again when it is next used
        if record is None:
            entry = self._by_uuid.pop(uuid, None)
            if entry is None:
                return
            self._uuid_of.pop(entry.record.domain, None)
            record = entry.record.model_copy(update={"archived": True})
        self._on_change(record)
