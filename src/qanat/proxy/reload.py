"""Notices changed files: the certificate always, the configuration where it says so.

Contents are compared, not times: Kubernetes swaps a symbolic link, editors replace files. What cannot be used changes
nothing; the proxy goes on with what it has and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from qanat.errors import ConfigInvalid
from qanat.log import set_level
from qanat.logger import get_logger
from qanat.proxy.certificate import Certificate, days_left, digest_files, load_certificate
from qanat.proxy.config import ProxyConfig
from qanat.proxy.files import digest
from qanat.proxy.proxy import Proxy

log = get_logger("qanat.proxy")
TICKET_KEYS_LIFETIME = 86_400.0
"""Seconds after which session tickets get new keys: those live in the TLS context, so it is made anew."""
FAILURE_EVERY = 60.0
EXPIRY_DAILY, EXPIRY_HOURLY = 14.0, 3.0
"""Days before the end from which it is logged once a day, and once an hour."""
_FIXED = ("listen_addr", "tls", "tunnel_domain", "admin", "tracing")


class CertificateWatch:
    """Decides at each look whether to load the pair, and what to log. Times are monotonic seconds."""

    def __init__(self, proxy: Proxy, now: float) -> None:
        self._proxy = proxy
        self._loaded_at = now
        self._failed_at = self._warned_at = float("-inf")

    def look(self, now: float) -> None:
        """Look at the files; never raises for what is in them."""
        files, current = self._proxy.config.tls, self._proxy.certificate
        try:
            changed = digest_files(files.cert_file, files.key_file) != current.digest
            if changed or now - self._loaded_at > TICKET_KEYS_LIFETIME:
                self._take_up(load_certificate(files.cert_file, files.key_file), changed, now)
        except ConfigInvalid as error:
            self._fail(str(error), now)
        except Exception as error:  # whatever is wrong with these files, the next ones may be good
            self._fail(f"internal error: {type(error).__name__}", now)
        self._warn_of_expiry(now)

    def _fail(self, reason: str, now: float) -> None:
        if now - self._failed_at >= FAILURE_EVERY:
            self._failed_at = now
            log.warn("certificate reload failed", error=reason)

    def _take_up(self, certificate: Certificate, changed: bool, now: float) -> None:
        self._proxy.use_certificate(certificate)
        self._loaded_at = now
        if changed:
            self._warned_at = float("-inf")
            log.info("certificate reloaded", **certificate.fields())

    def _warn_of_expiry(self, now: float) -> None:
        left = days_left(self._proxy.certificate)
        if left >= EXPIRY_DAILY:
            return
        if now - self._warned_at >= (3600.0 if left < EXPIRY_HOURLY else 86_400.0):
            self._warned_at = now
            log.warn("certificate expires soon", **self._proxy.certificate.fields(), days_left=round(left, 1))


async def watch_certificate(proxy: Proxy, interval: float) -> None:
    """Look at the pair every `interval` seconds, for ever."""
    loop = asyncio.get_running_loop()
    watch = CertificateWatch(proxy, loop.time())
    while True:
        watch.look(loop.time())
        await asyncio.sleep(interval)


class ConfigWatch:
    """Takes up a configuration file that has changed, or a file that a route is made from."""

    def __init__(self, proxy: Proxy, path: Path, load: Callable[[], ProxyConfig]) -> None:
        self._proxy, self._path, self._load = proxy, path, load
        self._used = b""  # the first look compares: the file may have changed since it was loaded
        self._problems: list[str] = []

    def look(self, force: bool = False) -> bool:
        """Take up the files if they are not the ones in use, or in any case; whether they were taken up.

        One that cannot be used is tried again at each look, because what was wrong may lie outside of it.
        """
        found = digest([self._path, *self._proxy.files])
        if found == self._used and not force:
            return False
        try:
            changed = self._take_up(self._load())
        except ConfigInvalid as error:
            self._fail(error.problems, force)
            return False
        except Exception as error:  # as above
            self._fail([f"internal error: {type(error).__name__}"], force)
            return False
        self._used, self._problems = found, []
        self._proxy.metrics.reload_success.set(1)
        if changed or force:
            log.info("config reloaded", routes=len(self._proxy.config.routes))
        return changed or force

    def _take_up(self, new: ProxyConfig) -> bool:
        """Use it, but for what can only change at a start; whether that changed anything."""
        current = self._proxy.config
        fixed = {name: getattr(current, name) for name in _FIXED if getattr(new, name) != getattr(current, name)}
        config = new.model_copy(update=fixed)
        changed = self._proxy.use_config(config)
        set_level(config.log_level)
        for name in fixed:
            log.warn("restart required", key=name)
        return changed

    def _fail(self, problems: list[str], force: bool) -> None:
        self._proxy.metrics.reload_success.set(0)
        self._used = b""  # also what was good before is looked at again
        if force or problems != self._problems:
            self._problems = problems
            log.error("config reload failed", errors=problems)


async def watch_config(proxy: Proxy, path: Path, load: Callable[[], ProxyConfig], reload_now: asyncio.Event) -> None:
    """Look at the file every so often if the configuration says so, and whenever `reload_now` is set; for ever."""
    watch = ConfigWatch(proxy, path, load)
    while True:
        settings = proxy.config.reload
        try:
            async with asyncio.timeout(settings.interval.total_seconds() if settings.enabled else None):
                await reload_now.wait()
        except TimeoutError:
            watch.look()
            continue
        reload_now.clear()
        watch.look(force=True)
