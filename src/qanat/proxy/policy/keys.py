"""An issuer's signing keys, fetched when needed and kept when the issuer is down.

A key id nobody has seen triggers one fetch, at most every 30 s however many such tokens arrive. Keys outlive a failing
issuer for a day; with no keys at all nothing is let in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jwt

from qanat.errors import QanatError
from qanat.logger import get_logger
from qanat.proxy.policy.token import TokenRefused

FRESH_FOR = 600.0
STALE_FOR = 24 * 3600.0
REFETCH_AFTER = 30.0
MIN_RSA_BITS = 2048

_log = get_logger("qanat.proxy.auth")


@dataclass(eq=False)
class KeysUnavailable(QanatError):
    """No key set to check tokens with: the route is closed until the issuer answers."""

    code: ClassVar[str] = "auth_unavailable"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True

    def __str__(self) -> str:
        return "token keys unavailable"


class KeySet:
    """The keys of one issuer. `fetch` returns a JWK set as bytes; whatever it raises counts as the issuer being down.

    Times are monotonic seconds.
    """

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], monotonic: Callable[[], float]) -> None:
        self._fetch, self._monotonic = fetch, monotonic
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    async def key(self, kid: str) -> jwt.PyJWK:
        """The key with that id. Raises `TokenRefused` when the issuer has none, `KeysUnavailable` without any."""
        now = self._monotonic()
        if self._age(now) > FRESH_FOR or kid not in self._keys:
            await self._refresh(now)
        if self._age(self._monotonic()) > STALE_FOR:
            raise KeysUnavailable
        found = self._keys.get(kid)
        if found is None:
            raise TokenRefused("unknown key id")
        return found

    def _age(self, now: float) -> float:
        return float("inf") if self._fetched_at is None else now - self._fetched_at

    async def _refresh(self, asked_at: float) -> None:
        async with self._fetching:  # those who waited find the answer of the one who went
            if self._tried_at is not None and asked_at - self._tried_at < REFETCH_AFTER:
                return
            self._tried_at = self._monotonic()
            try:
                self._keys = read_key_set(await self._fetch())
            except Exception as error:
                _log.warn("jwks fetch failed", reason=type(error).__name__)
                return
            self._fetched_at = self._monotonic()


def read_key_set(text: bytes) -> dict[str, jwt.PyJWK]:
    """The usable public signing keys of a JWK set (RFC 7517 section 5), by key id. Raises `ValueError`."""
    document: Any = json.loads(text)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("a JWK set holds a list named keys")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC") or "d" in entry:
            continue
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
        if key.key_id and not (key.key_type == "RSA" and key.key.key_size < MIN_RSA_BITS):
            keys[key.key_id] = key
    return keys
