"""Counters for what happens with each request: plain dictionaries, made into metrics when someone asks.

prometheus-client takes a lock and five calls for each step of a counter. All of this happens on one thread, and a
request takes a dozen such steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


class Tally(Collector):
    """A counter or a gauge. Step it by `tally.counts[labels] += 1`."""

    def __init__(
        self, family: _Family, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._family, self._name, self._documentation = family, name, documentation
        self.label_names = labels
        self.counts: defaultdict[tuple[str | int, ...], int] = defaultdict(int)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = self._family(self._name, self._documentation, labels=self.label_names)
        for labels, count in self.counts.items():
            family.add_metric([str(label) for label in labels], count)
        yield family


class Durations(Collector):
    """A histogram of seconds for each value of one label."""

    def __init__(
        self, name: str, documentation: str, label: str, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation = name, documentation
        self.label_names = (label,)
        self._buckets = buckets
        self._counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(buckets) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)
        registry.register(self)

    def observe(self, label: str, seconds: float) -> None:
        """Count one."""
        self._counts[label][bisect_left(self._buckets, seconds)] += 1
        self._sums[label] += seconds

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self.label_names)
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        for label, counts in self._counts.items():
            family.add_metric([label], list(zip(bounds, accumulate(counts), strict=True)), self._sums[label])
        yield family
