"""What each of several edge processes on one machine gets: each is a node of the cluster like any other.

They share the ports that connectors and clients dial, and the kernel spreads connections over them.
"""

from __future__ import annotations

from qanat.edge.config import EdgeConfig, parse_listen
from qanat.errors import ConfigInvalid
from qanat.wire.addresses import join_host_port


def for_worker(config: EdgeConfig, number: int, count: int) -> EdgeConfig:
    """The configuration of worker `number` (from 0) of `count`: its own name, and its own port wherever it is dialled.

    Raises `ConfigInvalid` where there are no such ports.
    """
    problems: list[str] = []
    changes: dict[str, object] = {"name": f"{config.name}-{number}"}
    cluster, metrics = config.cluster, config.metrics_addr
    if cluster is not None:
        address = _shift("cluster.listen_addr", cluster.listen_addr, number, problems)
        changes["cluster"] = cluster.model_copy(update={"listen_addr": address})
    if metrics is not None:
        changes["metrics_addr"] = _shift("metrics_addr", metrics, number, problems)
    if cluster is not None and metrics is not None:
        one, other = parse_listen(cluster.listen_addr)[1], parse_listen(metrics)[1]
        if one and other and abs(one - other) < count:
            problems.append(f"cluster.listen_addr and metrics_addr: {count} workers need ports {count} apart")
    if problems:
        raise ConfigInvalid(problems)
    return config.model_copy(update=changes)


def _shift(key: str, address: str, number: int, problems: list[str]) -> str:
    host, port = parse_listen(address)
    if port and port + number > 65535:
        problems.append(f"{key}: worker {number} would need port {port + number}; choose a lower one")
    return join_host_port(host, port + number if port else 0)
