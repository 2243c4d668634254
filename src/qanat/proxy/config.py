"""What `qanat proxy` reads from its file: the reference proxy's schema, and small optional additions.

A file either loads as a whole or every problem in it is reported at once. A misspelt key is an error, because a
security option that is silently ignored is worse than a proxy that does not start.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qanat.config import Duration, Section
from qanat.errors import ConfigInvalid
from qanat.logger import Level
from qanat.proxy.document import Document, explain, read_document
from qanat.proxy.guard import PRIVATE, AddressGuard, Family, Network, private
from qanat.proxy.networks import Networks
from qanat.proxy.policy.config import PolicyConfig
from qanat.proxy.routes import is_hostname
from qanat.proxy.stdio.route import StdioConfig
from qanat.proxy.upstream_url import INVALID, STDIO, UpstreamInvalid, UpstreamURL, parse_upstream

DEFAULT_PATH = Path("/etc/mcp-gateway/config.yaml")
NONE = timedelta()


class ProxySection(Section):
    """Numbers may stand where text is wanted, as in Go's yaml; nothing else is converted."""

    model_config = ConfigDict(coerce_numbers_to_str=True, strict=False)


def _parse_listen(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'must be host:port or :port, not "{value}"')
    return (host.strip("[]"), int(port))


def _parse_level(value: object) -> object:
    level = value.lower() if isinstance(value, str) else value
    if level not in ("debug", "info", "warn", "error"):
        raise ValueError(f'must be debug, info, warn or error, not "{value}"')
    return level


def _check_host(value: str) -> str:
    if not value or any(not "!" <= letter <= "~" for letter in value):
        raise ValueError(f'must be upstream, preserve or a host name in ASCII, not "{value}"')
    return value


HostHeader = Annotated[str, AfterValidator(_check_host)]


def _parse_route(value: object) -> object:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return {"upstream": str(value)}
    if isinstance(value, (dict, Section)):
        return value
    raise PydanticCustomError("string_type", "a URL is wanted")


def _parse_url(value: object) -> object:
    if isinstance(value, UpstreamURL):
        return value
    try:
        return parse_upstream(str(value))
    except UpstreamInvalid:
        raise ValueError(f'{INVALID}: "{value}"') from None


def _strict_bool(value: object) -> object:
    if not isinstance(value, bool):
        raise PydanticCustomError("bool_type", "true or false is wanted")
    return value


ListenAddress = Annotated[tuple[str, int], BeforeValidator(_parse_listen)]
Bool = Annotated[bool, BeforeValidator(_strict_bool)]
Upstream = Annotated[UpstreamURL, BeforeValidator(_parse_url)]
Count = Annotated[int, Field(ge=1)]


class TLSFiles(ProxySection):
    """The server certificate of inner TLS, as PEM files. They are watched and reloaded."""

    cert_file: Path
    key_file: Path


class UpstreamTLS(ProxySection):
    """What `https://` upstreams are verified against. With neither, none can be reached; there is no way round it."""

    ca_file: Path | None = None
    include_system_cas: Bool = False
    """Trust the system's CAs too."""


class RouteTLS(ProxySection):
    """The same for one route, and a client certificate for it."""

    ca_file: Path | None = None
    server_name: str | None = None
    """The name its certificate must have; by default the host of `upstream`."""
    client_cert_file: Path | None = None
    client_key_file: Path | None = None


class Timeouts(ProxySection):
    """Zero means none: a tool call may take an hour, and a stream may be quiet for a day."""

    connect: Duration = timedelta(seconds=10)
    """For TCP and TLS together."""
    response_header: Duration = NONE
    """For the answer to begin; then 504."""
    stream_idle: Duration = NONE
    """Between two pieces of an answer; then it is cut off."""


class RouteConfig(PolicyConfig):
    """One route. The short form `name: http://host:port` sets `upstream` alone."""

    model_config = ProxySection.model_config

    upstream: Upstream = STDIO
    stdio: StdioConfig | None = None
    """A program to run instead of an upstream to dial."""
    host_header: HostHeader | None = None
    """`upstream`, `preserve` or a literal; None takes `upstream.host_header`."""
    allowed_ips: Networks | None = None
    """Narrows `upstream.allowed_ips`, and must lie inside it."""
    tls: RouteTLS | None = None
    timeouts: Timeouts = Timeouts()
    paths: tuple[str, ...] | None = None
    """Path prefixes that are let through; others get 403."""
    sse_keepalive: Duration = NONE
    """Insert a comment into an event stream that is silent for so long, between two events."""
    max_in_flight: Annotated[int, Field(ge=0)] = 0
    """Requests of this route at once; 0 is no limit, beyond it 503."""
    rewrite_origins: Bool | None = None
    """None takes the global `rewrite_origins`."""

    @field_validator("paths")
    @classmethod
    def _check_paths(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for path in value or ():
            if not path.startswith("/"):
                raise ValueError(f'a path prefix must start with "/", not "{path}"')
        return value

    @model_validator(mode="after")
    def _check_target(self) -> RouteConfig:
        if (self.upstream == STDIO) == (self.stdio is None):
            raise ValueError("give either upstream or stdio")
        return self


Route = Annotated[RouteConfig, BeforeValidator(_parse_route)]


class UpstreamConfig(ProxySection):
    """What holds for every upstream."""

    ip_families: Annotated[tuple[Family, ...], Field(min_length=1)] = ("ipv4",)
    """`ipv4`, `ipv6` or both: what names are looked up for. Where a name has both, the first is dialled first."""
    allowed_ips: Networks | None = None
    """Networks and addresses that may be dialled. A list replaces the default: RFC 1918, and with `ipv6` fc00::/7."""
    disable_ip_validation: Bool = False
    """Dial any address. Not together with `allowed_ips`; warned about at every start."""
    tls: UpstreamTLS = UpstreamTLS()
    host_header: HostHeader = "upstream"
    """`upstream` sends the route's own address with its port, `preserve` the tunnel hostname, anything else itself."""
    idle_timeout: Duration = timedelta(seconds=4)
    """How long an idle connection is kept: below the 5 s after which uvicorn closes its end."""

    @property
    def guard(self) -> AddressGuard:
        """The judge of addresses this section describes."""
        if self.disable_ip_validation:
            return AddressGuard(None)
        return AddressGuard(private(self.ip_families) if self.allowed_ips is None else self.allowed_ips)

    @field_validator("ip_families")
    @classmethod
    def _check_families(cls, value: tuple[Family, ...]) -> tuple[Family, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each family once")
        return value


class WebSocketConfig(ProxySection):
    """The outer WebSocket."""

    subprotocols: tuple[str, ...] = ()
    """The first of these that a client offers is selected; by default none is."""


class Limits(ProxySection):
    """Where the proxy says 503 instead of growing."""

    websockets: Count = 1024
    """Open WebSockets; beyond it upgrades get 503."""
    streams: Count = 250
    """HTTP/2 streams of one inner connection."""
    requests: Count = 4096
    """Requests in flight."""
    upstream_sockets: Count = 512
    """Open sockets of one route."""
    inspect_body: Count = 4 * 1024 * 1024
    """Bytes of a body that a route with a policy on tools reads; a larger one gets 413."""
    handshakes: Count = 128
    """Inner TLS handshakes at once; more wait their turn."""
    idle_timeout: Duration = timedelta(seconds=300)
    """An inner connection without a request for this long is closed."""


class Reload(ProxySection):
    """Whether changes to the file are taken up while running."""

    enabled: Bool = False
    interval: Duration = timedelta(seconds=5)


class Admin(ProxySection):
    """Metrics, health and route state, on an address of their own."""

    listen_addr: ListenAddress


def _check_collector(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(f'must be a URL like http://collector:4318, not "{value.rpartition("@")[2]}"')
    return value


class Tracing(ProxySection):
    """Two OpenTelemetry spans for each request, sent to a collector: of the whole, and of the call upstream."""

    otlp_endpoint: Annotated[str, AfterValidator(_check_collector)]
    """The collector's URL for OTLP over HTTP; `/v1/traces` is added where it is missing."""
    ca_file: Path | None = None
    """Trusted for a collector at `https://`, instead of the system's."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How many of the traces that begin here are kept. What a caller's `traceparent` decides is followed."""
    service_name: Annotated[str, Field(min_length=1)] = "qanat-proxy"


class ProxyConfig(ProxySection):
    """Everything `qanat proxy` reads from its file."""

    listen_addr: ListenAddress
    """Where the connector reaches the proxy; an empty host is every address, IPv4 and IPv6."""
    log_level: Annotated[Level, BeforeValidator(_parse_level)] = "info"
    shutdown_timeout: Duration = timedelta(seconds=30)
    """How long running requests may take to end after SIGTERM, or once their route or its program has gone."""
    tunnel_domain: str = ""
    """What is cut off a hostname to get a route key; required for keys without a dot."""
    tls: TLSFiles
    routes: Annotated[dict[str, Route], Field(min_length=1)]
    """Full hostname, or name below `tunnel_domain`, to upstream."""
    upstream: UpstreamConfig = UpstreamConfig()
    websocket: WebSocketConfig = WebSocketConfig()
    limits: Limits = Limits()
    rewrite_origins: Bool = True
    """Whether redirects and challenges that name the upstream are made to name the tunnel hostname."""
    reload: Reload = Reload()
    admin: Admin | None = None
    tracing: Tracing | None = None

    @field_validator("tunnel_domain")
    @classmethod
    def _check_domain(cls, value: str) -> str:
        domain = value.lower().removesuffix(".")
        if domain and not is_hostname(domain):
            raise ValueError(f'invalid hostname "{value}"')
        return domain


def load_config(path: Path, tunnel_domain: str = "", allow_unknown_fields: bool = False) -> ProxyConfig:
    """The configuration in a file; `tunnel_domain` overrides the one in it. Raises `ConfigInvalid`."""
    return parse_config(read_document(path), tunnel_domain, allow_unknown_fields)


def parse_config(document: Document, tunnel_domain: str = "", allow_unknown_fields: bool = False) -> ProxyConfig:
    """The configuration in a document. Raises `ConfigInvalid` with every problem, one line each."""
    data = document.data
    problems: list[str] = []
    if isinstance(data, dict):
        if tunnel_domain:
            data["tunnel_domain"] = tunnel_domain
        problems = _contradictions(data)
    try:
        config = _validate(data, allow_unknown_fields)
    except ValidationError as error:
        raise ConfigInvalid([*explain(document, ProxyConfig, error), *problems]) from None
    problems += _family_problems(config)
    if problems:
        raise ConfigInvalid(problems)
    return config


def _validate(data: Any, allow_unknown_fields: bool) -> ProxyConfig:
    try:
        return ProxyConfig.model_validate(data)
    except ValidationError as error:
        unknown = [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
        if not allow_unknown_fields or not unknown:
            raise
        for where in unknown:
            _remove(data, where)
        return _validate(data, allow_unknown_fields)


def _remove(data: Any, where: tuple[str | int, ...]) -> None:
    for part in where[:-1]:
        data = data[part]
    del data[where[-1]]


def _contradictions(data: dict[str, Any]) -> list[str]:
    """Problems between keys: looked for in the raw values, so that they show up beside wrong ones."""
    problems: list[str] = []
    routes, upstream = data.get("routes"), data.get("upstream")
    if isinstance(routes, dict):
        problems += _key_problems(routes, bool(data.get("tunnel_domain")))
    if isinstance(upstream, dict) and upstream.get("disable_ip_validation") is True and "allowed_ips" in upstream:
        problems.append("upstream.allowed_ips and upstream.disable_ip_validation are mutually exclusive")
    return problems


def _family_problems(config: ProxyConfig) -> list[str]:
    if "ipv6" in config.upstream.ip_families:
        return []
    lists = {"upstream.allowed_ips": config.upstream.allowed_ips}
    for name, route in config.routes.items():
        lists[f"routes.{name}.allowed_ips"] = route.allowed_ips
        lists[f"routes.{name}.auth.allowed_ips"] = route.auth.allowed_ips
    return [
        f"{where}[{index}]: {network} is IPv6: add ipv6 to upstream.ip_families"
        for where, networks in lists.items()
        for index, network in enumerate(networks or ())
        if network.version == 6
    ]


def _key_problems(routes: dict[str, Any], has_domain: bool) -> list[str]:
    problems, seen = [], set()
    for key in routes:
        name = key.lower().removesuffix(".")
        if name in seen:
            problems.append(f'duplicate route "{key}"')
        seen.add(name)
        if not is_hostname(name):
            problems.append(f'invalid route "{key}": must be a hostname or a subdomain')
    if not has_domain and any("." not in key for key in routes):
        problems.append("tunnel_domain is required when routes keys are bare subdomains")
    return problems


def warnings(config: ProxyConfig) -> list[str]:
    """What is allowed but seldom meant, one sentence each."""
    found = []
    if config.upstream.disable_ip_validation:
        found.append("upstream IP validation is DISABLED: every address can be reached through this proxy")
    found += [
        f"upstream.allowed_ips entry {network} is very wide; public addresses may be reachable"
        for network in config.upstream.allowed_ips or ()
        if _is_wide(network)
    ]
    for key, route in config.routes.items():
        trusted = config.upstream.tls.ca_file or config.upstream.tls.include_system_cas
        if route.upstream.scheme == "https" and not trusted and not (route.tls and route.tls.ca_file):
            found.append(f'route "{key}" is https but no CA is trusted for upstreams: it will answer 502')
        guard = config.upstream.guard if route.allowed_ips is None else AddressGuard(route.allowed_ips)
        if route.upstream.address is not None and not guard.permits(str(route.upstream.address)):
            where = "upstream.allowed_ips and upstream.ip_families"
            found.append(f'route "{key}" leads to an address that {where} do not allow: it will answer 502')
        name = key.lower()
        below = name.removesuffix(f".{config.tunnel_domain}") if config.tunnel_domain else ""
        if "." in below and (below != name or config.tunnel_domain):
            found.append(f'route "{key}" has more than one label: a wildcard certificate does not match it')
    return found


def _is_wide(network: Network) -> bool:
    if network in PRIVATE["ipv6"]:
        return False
    return network.prefixlen < (8 if network.version == 4 else 32)
