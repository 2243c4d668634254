"""A route at run time: its configuration made ready, its connections, its counters."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qanat.errors import ConfigInvalid
from qanat.proxy.config import ProxyConfig, RouteConfig, RouteTLS
from qanat.proxy.dial import Destination, Dialler
from qanat.proxy.files import digest, load_pem
from qanat.proxy.filters import RouteFilter
from qanat.proxy.guard import AddressGuard
from qanat.proxy.pool import Pool, UpstreamPool
from qanat.proxy.routes import Authority
from qanat.proxy.stdio.upstream import StdioPool

_DOUBTFUL: Final = re.compile(r"/\.{1,2}(?:[/;]|\Z)|//|\\|%(?:2[ef]|5c|00)", re.IGNORECASE)
"""Dot segments (also with parameters: `..;`), empty ones, and separators or dots in disguise."""
BuildFilter = Callable[[ProxyConfig, str], RouteFilter | None]
"""From a route's name to its policy, if it has one."""


@dataclass(eq=False)
class Route:
    """One route, as long as neither its configuration changes nor what is in its files."""

    name: str
    config: RouteConfig
    destination: Destination
    pool: Pool
    host_header: str
    rewrite_origins: bool
    digest: bytes
    """Over its files."""
    filter: RouteFilter | None = None
    hinted: bool = False
    """Whether the log has had the hint about a refused Host."""

    def __post_init__(self) -> None:
        timeouts = self.config.timeouts
        self.upstream = self.destination.url.authority
        self.paths = self.config.paths
        self._own_paths = frozenset(self.filter.own_paths if self.filter is not None else ())
        self.max_in_flight = self.config.max_in_flight
        self.header_timeout = timeouts.response_header.total_seconds()
        self.idle_timeout = timeouts.stream_idle.total_seconds()
        self.sse_keepalive = self.config.sse_keepalive.total_seconds()
        self._host = (self.upstream if self.host_header == "upstream" else self.host_header).encode("latin-1")

    def host_for(self, authority: Authority) -> bytes:
        """The `Host` to send upstream. Always with the port, because servers match `name:*`."""
        return authority.encoded if self.host_header == "preserve" else self._host

    def allows(self, path: str) -> bool:
        """Whether the path is among those let through. Prefixes end at a segment's end."""
        if self.paths is None or path in self._own_paths:
            return True
        if _DOUBTFUL.search(path):
            return False  # an upstream may read such a path as another one
        return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in self.paths)


def guard_for(config: ProxyConfig, name: str, route: RouteConfig) -> AddressGuard:
    """The address judge of one route. Raises `ConfigInvalid` when it would widen the global one."""
    guard = config.upstream.guard
    if route.allowed_ips is None:
        return guard
    outside = [network for network in route.allowed_ips if not guard.covers(network)]
    if outside:
        raise ConfigInvalid([f"routes.{name}.allowed_ips: {outside[0]} is not inside upstream.allowed_ips"])
    return guard.narrowed(route.allowed_ips)


def files_of(config: ProxyConfig, route: RouteConfig) -> list[Path]:
    """The files that a route is made from."""
    tls, shared = route.tls or RouteTLS(), config.upstream.tls.ca_file
    files: list[Path | None] = []
    if route.upstream.scheme == "https":
        files += [tls.ca_file or shared, tls.client_cert_file, tls.client_key_file]
    if route.auth.mode == "oauth":
        files += [shared, route.auth.ca_file]
    return [file for file in files if file is not None]


def upstream_context(config: ProxyConfig, route: RouteConfig) -> ssl.SSLContext | None:
    """The TLS client of one route, None for plain HTTP. Raises `ConfigInvalid`.

    Trusts `ca_file`, and the system's bundle only when asked to; with neither every handshake fails.
    """
    if route.upstream.scheme != "https":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unlike create_default_context this ignores SSLKEYLOGFILE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    files = config.upstream.tls
    ca_file = route.tls.ca_file if route.tls and route.tls.ca_file else files.ca_file
    if ca_file is not None:
        load_pem(ca_file, lambda: context.load_verify_locations(ca_file))
    if files.include_system_cas:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if route.tls and route.tls.client_cert_file:
        certificate, key = route.tls.client_cert_file, route.tls.client_key_file
        load_pem(certificate, lambda: context.load_cert_chain(certificate, key, password=""))
    return context


def build_route(
    config: ProxyConfig,
    name: str,
    dialler: Dialler,
    build_filter: BuildFilter | None = None,
    previous: Route | None = None,
) -> Route:
    """A route ready to serve. It goes on with the program of the `previous` one, if that is the same. Raises
    `ConfigInvalid`."""
    settings = config.routes[name]
    url = settings.upstream
    read = digest(files_of(config, settings))  # first: what changes while it is read has then changed since
    destination = Destination(
        url,
        guard_for(config, name, settings),
        upstream_context(config, settings),
        (settings.tls.server_name if settings.tls else None) or url.host,
        settings.timeouts.connect.total_seconds(),
        config.upstream.ip_families,
    )
    limits = config.limits
    pool: Pool
    if settings.stdio is None:
        idle_timeout = config.upstream.idle_timeout.total_seconds()
        pool = UpstreamPool(dialler, destination, limits.upstream_sockets, idle_timeout)
    elif previous is not None and previous.config.stdio == settings.stdio:
        pool = previous.pool
    else:
        pool = StdioPool(settings.stdio)
    rewrite = config.rewrite_origins if settings.rewrite_origins is None else settings.rewrite_origins
    return Route(
        name=name,
        config=settings,
        destination=destination,
        pool=pool,
        host_header=settings.host_header or config.upstream.host_header,
        rewrite_origins=rewrite,
        digest=read,
        filter=build_filter(config, name) if build_filter else None,
    )
