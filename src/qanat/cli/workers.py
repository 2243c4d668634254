"""What each of the workers of `qanat join --workers N` gets, and what they cannot have."""

from __future__ import annotations

from qanat.connector.config import ConnectorConfig, split_host_port
from qanat.errors import ConfigInvalid
from qanat.proxy.config import ProxyConfig
from qanat.wire.addresses import join_host_port

FIX = "use --workers 1, or replicas with files of their own"

Settings = tuple[ProxyConfig, ConnectorConfig]


def for_worker(settings: Settings, index: int, count: int) -> Settings:
    """The configuration of worker `index` of `count`: its share of the connections, and its own ports.

    Raises `ConfigInvalid` for what cannot be had by several processes.
    """
    proxy, connector = settings
    problems = [problem for name in proxy.routes for problem in _bound_to_one(proxy, name)]
    share: dict[str, object] = {"ha_connections": -(-connector.ha_connections // count)}
    if connector.metrics is not None:
        host, port = split_host_port(connector.metrics, 0)
        share["metrics"] = join_host_port(host, _shift("connector.metrics", port, index, problems))
        if proxy.admin is not None and port and 0 < abs(port - proxy.admin.listen_addr[1]) < count:
            problems.append(f"admin.listen_addr and connector.metrics: {count} workers need ports {count} apart")
    if proxy.admin is not None:
        host, port = proxy.admin.listen_addr
        address = host, _shift("admin.listen_addr", port, index, problems)
        proxy = proxy.model_copy(update={"admin": proxy.admin.model_copy(update={"listen_addr": address})})
    if problems:
        raise ConfigInvalid(problems)
    return proxy, connector.model_copy(update=share)


def _bound_to_one(proxy: ProxyConfig, name: str) -> list[str]:
    route, found = proxy.routes[name], []
    if route.audit is not None:
        found.append(f"routes.{name}.audit: one process must write the whole chain; {FIX}")
    if route.stdio is not None:
        found.append(f"routes.{name}.stdio: the program's sessions live in one process; {FIX}")
    return found


def _shift(key: str, port: int, index: int, problems: list[str]) -> int:
    if port and port + index > 65535:
        problems.append(f"{key}: worker {index} would need port {port + index}; choose a lower one")
    return port + index if port else 0
