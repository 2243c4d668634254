"""What prometheus-client is told of our own counters. Apart from them, because its base class is interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class Scraped(Collector):
    """Asks for the metrics when they are scraped."""

    def __init__(self, collect: Callable[[], Iterable[Metric]], label_names: Sequence[str]) -> None:
        self._collect, self.label_names = collect, label_names

    def collect(self) -> Iterable[Metric]:
        return self._collect()
