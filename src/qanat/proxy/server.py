"""The proxy on its sockets: the listener, the admin address, and the watchers of certificate and configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from qanat.logger import get_logger
from qanat.net.transport import as_protocol
from qanat.proxy.admin import start_admin
from qanat.proxy.certificate import Certificate, load_certificate
from qanat.proxy.config import ProxyConfig, load_config, warnings
from qanat.proxy.dial import Lookup
from qanat.proxy.listener import OuterConnection
from qanat.proxy.proxy import Proxy
from qanat.proxy.reload import watch_certificate, watch_config
from qanat.proxy.route import BuildFilter

log = get_logger("qanat.proxy")
BACKLOG = 512
SHUTDOWN_MARGIN = 1.0
"""Finish this many seconds before whoever stops us loses patience."""


@dataclass(frozen=True)
class RunningProxy:
    """A proxy that serves. `address` is None when it has no listener of its own."""

    proxy: Proxy
    address: tuple[str, int] | None
    admin_address: tuple[str, int] | None
    reload_now: asyncio.Event
    """Set it to look at the configuration file now (SIGHUP)."""


@asynccontextmanager
async def serve(
    config: ProxyConfig,
    *,
    config_path: Path | None = None,
    tunnel_domain: str = "",
    load: Callable[[], ProxyConfig] | None = None,
    listen: bool = True,
    lookup: Lookup | None = None,
    build_filter: BuildFilter | None = None,
    certificate_interval: float = 10.0,
) -> AsyncIterator[RunningProxy]:
    """Serve until the context ends, then drain for up to `shutdown_timeout`.

    `listen=False` leaves the listener out: streams then come by `Proxy.handle_stream`. With `config_path` the file is
    watched if the configuration says so, and read by `load` if given. Raises `ConfigInvalid` and `OSError`.
    """
    certificate = load_certificate(config.tls.cert_file, config.tls.key_file)
    proxy = Proxy(config, certificate, lookup=lookup, build_filter=build_filter)
    reload_now = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = admin = None
    try:
        announce(config, certificate)
        if listen:
            host, port = config.listen_addr
            server = await loop.create_server(
                lambda: as_protocol(OuterConnection(proxy)), host or None, port, backlog=BACKLOG
            )
        admin = await start_admin(proxy, config.admin) if config.admin else None
        running = RunningProxy(proxy, _bound(server), _bound(admin), reload_now)
        if running.address:
            log.info("listening", address=f"{running.address[0]}:{running.address[1]}")
        watchers = [_watch(lambda: watch_certificate(proxy, certificate_interval))]
        if config_path is not None:
            reload = load or (lambda: load_config(config_path, tunnel_domain))
            watchers.append(_watch(lambda: watch_config(proxy, config_path, reload, reload_now)))
        try:
            yield running
        finally:
            await _stop(watchers)
            await _shut_down(proxy, server)
    finally:
        for open_server in (server, admin):
            if open_server is not None:
                open_server.close()
        await proxy.close()


def _watch(work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    async def watch() -> None:
        try:
            await work()
        except Exception:
            log.exception("internal error")

    return asyncio.get_running_loop().create_task(watch())


async def _stop(watchers: list[asyncio.Task[None]]) -> None:
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)


async def _shut_down(proxy: Proxy, server: asyncio.AbstractServer | None) -> None:
    proxy.listening = False
    patience = max(proxy.config.shutdown_timeout.total_seconds() - SHUTDOWN_MARGIN, 0.0)
    finished = await proxy.drain(patience)
    if server is not None:
        server.close()
    log.info("stopped", drained=finished)


def announce(config: ProxyConfig, certificate: Certificate) -> None:
    """The lines of a start: a line for each route, the certificate, and what looks wrong."""
    for name, route in config.routes.items():
        log.info("route configured", route=name, upstream=str(route.upstream))
    log.info("certificate loaded", **certificate.fields())
    for sentence in warnings(config):
        log.warn(sentence)
    for name in config.routes:
        hostname = name if "." in name or not config.tunnel_domain else f"{name}.{config.tunnel_domain}"
        if not certificate.covers(hostname.lower()):
            log.warn("certificate does not cover route", route=name, hostname=hostname)


def _bound(server: asyncio.AbstractServer | None) -> tuple[str, int] | None:
    sockets = getattr(server, "sockets", None)
    if not sockets:
        return None
    host, port = sockets[0].getsockname()[:2]
    return str(host), int(port)
