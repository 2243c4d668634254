"""What each of several edge processes on one machine gets: each is a node of the cluster like any other.

They share the ports that connectors and clients dial, and the kernel spreads connections over them.
"""

from __future__ import annotations

from qanat.edge.config import EdgeConfig, parse_listen


def for_worker(config: EdgeConfig, number: int) -> EdgeConfig:
    """The configuration of worker `number` (from 0): its own name, and its own port wherever it is dialled itself."""
    changes: dict[str, object] = {"name": f"{config.name}-{number}"}
    if config.cluster is not None:
        changes["cluster"] = config.cluster.model_copy(
            update={"listen_addr": _shift(config.cluster.listen_addr, number)}
        )
    if config.metrics_addr is not None:
        changes["metrics_addr"] = _shift(config.metrics_addr, number)
    return config.model_copy(update=changes)


def _shift(address: str, number: int) -> str:
    host, port = parse_listen(address)
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port + number if port else 0}"
