"""Makes the policies of routes from their configuration, and ends what they opened."""

from __future__ import annotations

import functools
import os
import ssl
import time
from pathlib import Path
from weakref import WeakSet

from qanat.errors import ConfigInvalid
from qanat.proxy.config import ProxyConfig, RouteConfig
from qanat.proxy.dial import Resolver
from qanat.proxy.guard import AddressGuard
from qanat.proxy.metrics import ProxyMetrics
from qanat.proxy.policy.auditfile import AuditFile
from qanat.proxy.policy.auth import RouteAuth, SessionOwners, Times
from qanat.proxy.policy.config import AuditConfig, AuthConfig
from qanat.proxy.policy.fetch import Fetcher
from qanat.proxy.policy.route_policy import RoutePolicy


class PolicyBuilder:
    """One proxy's policies. Routes that write to the same audit file share its chain."""

    def __init__(self, resolver: Resolver, metrics: ProxyMetrics) -> None:
        self._resolver, self._metrics = resolver, metrics
        self._times = Times(time.time, time.monotonic)
        self._audits: dict[str, AuditFile] = {}
        self._auths: WeakSet[RouteAuth] = WeakSet()  # one that no route uses any more keeps nothing open
        self._sessions: dict[str, SessionOwners] = {}
        """For each route: what it knows outlives its policy, because sessions do."""

    def __call__(self, config: ProxyConfig, name: str) -> RoutePolicy | None:
        """The policy of a route, None when it has none. Raises `ConfigInvalid`."""
        route = config.routes[name]
        if route.empty:
            return None
        return RoutePolicy(
            route,
            self._times,
            self._auth(config, name, route) if route.auth.mode == "oauth" else None,
            self._audit(name, route.audit) if route.audit else None,
            config.limits.inspect_body,
            lambda decision: self._metrics.decisions.labels(name, decision).inc(),
        )

    async def close(self) -> None:
        """Close connections to authorization servers, and the audit files."""
        for auth in list(self._auths):
            await auth.close()
        for audit in self._audits.values():
            audit.close()
        self._auths.clear()
        self._audits.clear()

    def _auth(self, config: ProxyConfig, name: str, route: RouteConfig) -> RouteAuth:
        settings = route.auth
        guard = config.upstream.guard if settings.allowed_ips is None else AddressGuard(settings.allowed_ips)
        resolve = functools.partial(self._resolver.resolve, families=config.upstream.ip_families)
        fetcher = Fetcher(resolve, guard, settings.allowed_ips is None, _trust(config, name, settings))
        resource = settings.resource or _default_resource(config, name, route)
        sessions = self._sessions.setdefault(name, SessionOwners())
        auth = RouteAuth(settings, resource, fetcher, self._times, sessions)
        self._auths.add(auth)
        return auth

    def _audit(self, name: str, settings: AuditConfig) -> AuditFile:
        file = os.path.realpath(settings.file) if settings.file != "stdout" else settings.file
        if file not in self._audits:
            try:
                key = settings.key_file.read_bytes().strip() if settings.key_file else b""
                self._audits[file] = AuditFile(file, key)
            except BlockingIOError as error:
                problem = "another proxy writes to it, which would break its chain: give each proxy a file of its own"
                raise ConfigInvalid([f"routes.{name}.audit: {settings.file}: {problem}"]) from error
            except OSError as error:
                raise ConfigInvalid([f"routes.{name}.audit: open {error.filename}: {_reason(error)}"]) from error
        return self._audits[file]


def _trust(config: ProxyConfig, name: str, settings: AuthConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    for path in filter(None, (config.upstream.tls.ca_file, settings.ca_file)):
        _load(context, path, name)
    return context


def _load(context: ssl.SSLContext, path: Path, name: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigInvalid([f"routes.{name}.auth: {path}: no certificate found"]) from error
    except OSError as error:
        raise ConfigInvalid([f"routes.{name}.auth: open {path}: {_reason(error)}"]) from error


def _default_resource(config: ProxyConfig, name: str, route: RouteConfig) -> str:
    """The route's URL: its first path where it has any, else the origin."""
    domain = config.tunnel_domain
    host = name if not domain or name.endswith(f".{domain}") else f"{name}.{domain}"
    path = route.stdio.path if route.stdio else next(iter(route.paths or ()), "")
    return f"https://{host.lower()}{path.rstrip('/')}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
