"""Issuers' key sets: cached in the store for all processes, fetched rarely, kept when the issuer is down.

A set is refetched every 15 minutes, and for an unknown key id at most once a minute; it is believed for 24 hours.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from qanat.control.assertions import Assertion, Denied, find_key, usable_keys
from qanat.control.errors import StoreUnavailable
from qanat.control.fetching import Fetcher, FetchFailed
from qanat.control.operations.context import Context
from qanat.control.operations.issuers import issuer_ca, source_of
from qanat.control.store.tables import IssuerRow
from qanat.logger import get_logger

FRESH = timedelta(minutes=15)
BELIEVED = timedelta(hours=24)
UNKNOWN_KID_INTERVAL = 60.0
FAILURE_INTERVAL = 10.0
MAX_FAILURES = 10
"""Failed background polls in a row after which polling pauses until somebody resumes it."""
MAX_REMEMBERED = 10_000
log = get_logger("qanat.control")


class KeySets:
    """Finds the key an assertion was signed with."""

    def __init__(self, context: Context, fetcher: Fetcher) -> None:
        self._context, self._fetcher = context, fetcher
        self._locks: OrderedDict[str, asyncio.Lock] = OrderedDict()
        self._unknown_kid_at: OrderedDict[str, float] = OrderedDict()
        self._failed_at: OrderedDict[str, float] = OrderedDict()

    async def key_for(self, issuer: IssuerRow, assertion: Assertion) -> Mapping[str, Any]:
        """Raises `Denied`: `jwks_unavailable` without any key set, `jwt_kid` when no key fits."""
        if issuer.jwks["type"] == "inline":
            return _require(find_key(assertion, issuer.jwks["keys"]))
        keys = await self._keys(issuer)
        known = any(key.get("kid") == assertion.kid for key in keys)
        if (
            assertion.kid is not None
            and not known
            and self._once(self._unknown_kid_at, issuer.id, UNKNOWN_KID_INTERVAL)
        ):
            await self._refresh(issuer)
            keys = self._cached(issuer) or keys
        return _require(find_key(assertion, keys))

    async def _keys(self, issuer: IssuerRow) -> Sequence[Mapping[str, Any]]:
        age = None if issuer.cached_at is None else self._context.now() - issuer.cached_at
        if age is None or age >= FRESH:
            async with self._lock(issuer.id):
                await self._reload(issuer)
                age = None if issuer.cached_at is None else self._context.now() - issuer.cached_at
                if (age is None or age >= FRESH) and self._may_retry(issuer):
                    await self._refresh(issuer)
        keys = self._cached(issuer)
        if keys is None:
            raise Denied("jwks_unavailable")
        return keys

    def _cached(self, issuer: IssuerRow) -> Sequence[Mapping[str, Any]] | None:
        if issuer.cached_keys is None or issuer.cached_at is None:
            return None
        keys: Sequence[Mapping[str, Any]] = issuer.cached_keys["keys"]
        return keys if self._context.now() - issuer.cached_at < BELIEVED else None

    def _may_retry(self, issuer: IssuerRow) -> bool:
        if issuer.jwks_polling_disabled_at is not None:
            return False
        failed_at = self._failed_at.get(issuer.id)
        return failed_at is None or self._context.clock.monotonic() - failed_at >= FAILURE_INTERVAL

    def _once(self, times: OrderedDict[str, float], key: str, interval: float) -> bool:
        """Whether `interval` seconds have passed since this last was true."""
        now = self._context.clock.monotonic()
        if now - times.get(key, now - interval) < interval:
            return False
        times[key] = now
        times.move_to_end(key)
        if len(times) > MAX_REMEMBERED:
            times.popitem(last=False)
        return True

    def _lock(self, issuer_id: str) -> asyncio.Lock:
        lock = self._locks.setdefault(issuer_id, asyncio.Lock())
        self._locks.move_to_end(issuer_id)
        if len(self._locks) > MAX_REMEMBERED:
            self._locks.popitem(last=False)
        return lock

    async def _reload(self, issuer: IssuerRow) -> None:
        async with self._context.database.read() as session:
            fresh = await session.get_one(IssuerRow, issuer.id)
        _copy(fresh, issuer)

    async def _refresh(self, issuer: IssuerRow) -> None:
        """Fetch, store, and put the outcome into `issuer`. Never raises for the issuer's failures."""
        try:
            keys = await self._fetch(issuer)
        except FetchFailed as error:
            log.warn("key set not fetched", issuer=issuer.id, reason=error.reason)
            self._failed_at[issuer.id] = self._context.clock.monotonic()
            await self._store(issuer, None)
        else:
            self._failed_at.pop(issuer.id, None)
            await self._store(issuer, keys)

    async def _fetch(self, issuer: IssuerRow) -> list[dict[str, Any]]:
        jwks, ca_pem = issuer.jwks, await issuer_ca(self._context, issuer)
        if jwks["type"] == "explicit_url":
            url = jwks["url"]
        else:
            url = await self._fetcher.discover(jwks.get("discovery_base") or issuer.issuer_url, ca_pem)
        keys = usable_keys(await self._fetcher.fetch_keys(url, ca_pem))
        if not keys:
            raise FetchFailed("the key set has no usable key")
        return keys

    async def _store(self, issuer: IssuerRow, keys: list[dict[str, Any]] | None) -> None:
        now = self._context.now()
        async with self._context.database.write() as session:
            row = await session.get_one(IssuerRow, issuer.id, with_for_update=True)
            if source_of(row) == source_of(issuer):  # else they are the keys of a source that nobody believes any more
                _note(row, keys, now)
        _copy(row, issuer)

    async def poll(self) -> None:
        """Refetch the sets that are due. Raises `StoreUnavailable`."""
        due = (IssuerRow.next_poll_at <= self._context.now(), IssuerRow.archived_at.is_(None))
        async with self._context.database.read() as session:
            rows = (await session.scalars(select(IssuerRow).where(*due).limit(100))).all()
        for row in rows:
            try:
                async with self._lock(row.id):
                    await self._refresh(row)
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("key set not polled", issuer=row.id)  # nor may a bug with one keep the others waiting


def _note(row: IssuerRow, keys: list[dict[str, Any]] | None, now: datetime) -> None:
    """Write down the outcome of a fetch; `keys` is None when it failed."""
    due = row.next_poll_at is not None and row.next_poll_at <= now
    row.last_fetched_at = now
    if keys is not None:
        row.cached_keys, row.cached_at, row.consecutive_failures = {"keys": keys}, now, 0
    elif due:  # exchanges ask as often as every ten seconds: were these counted, an outage of two minutes would do
        row.consecutive_failures += 1
    if row.consecutive_failures >= MAX_FAILURES:
        row.jwks_polling_disabled_at = row.jwks_polling_disabled_at or now
    if row.jwks_polling_disabled_at is not None:
        row.next_poll_at = None
    elif keys is not None or due:
        row.next_poll_at = now + FRESH


def _copy(source: IssuerRow, target: IssuerRow) -> None:
    for name in ("cached_keys", "cached_at", "consecutive_failures", "jwks_polling_disabled_at", "last_fetched_at"):
        setattr(target, name, getattr(source, name))


def _require(key: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if key is None:
        raise Denied("jwt_kid")
    return key
