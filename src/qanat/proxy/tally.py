"""Counters for what happens with each request: plain dictionaries, made into metrics when someone asks.

prometheus-client takes a lock and five calls for each step of a counter. All of this happens on one thread, and a
request takes a dozen such steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from qanat.proxy.scraped import Scraped

_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


class Tally:
    """A counter or a gauge."""

    def __init__(
        self, family: _Family, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._family, self._name, self._documentation = family, name, documentation
        self._labels = labels
        self._counts: dict[tuple[str | int, ...], _Count] = {}
        registry.register(Scraped(self._collect, self._labels))

    def step(self, labels: tuple[str | int, ...], by: int = 1) -> None:
        """Count one more, or one less."""
        count = self._counts.get(labels)
        if count is None:
            count = self._counts[labels] = _Count()
        count.value += by

    def _collect(self) -> Iterable[Metric]:
        family = self._family(self._name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric([str(label) for label in labels], count.value)
        return (family,)


class Durations:
    """A histogram of seconds for each value of one label."""

    def __init__(
        self, name: str, documentation: str, label: str, buckets: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation = name, documentation
        self._labels = (label,)
        self._buckets = buckets
        self._observed: dict[str, _Observed] = {}
        registry.register(Scraped(self._collect, self._labels))

    def observe(self, label: str, seconds: float) -> None:
        """Count one."""
        try:
            observed = self._observed[label]
        except KeyError:
            observed = self._observed[label] = _Observed(len(self._buckets) + 1)
        observed.count(seconds, self._buckets)

    def _collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        for label, observed in self._observed.items():
            family.add_metric([label], list(zip(bounds, accumulate(observed.counts), strict=True)), observed.sum)
        return (family,)


class _Count:
    """Where a counter stands: an object, because putting a number back under its labels costs a second look."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class _Observed:
    """What a histogram knows of one label."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0

    def count(self, seconds: float, bounds: tuple[float, ...]) -> None:
        """Count one. Most are short, and the bounds begin with the shortest: so it is soon found."""
        bucket = 0
        for bound in bounds:
            if seconds <= bound:
                break
            bucket += 1
        self.counts[bucket] += 1
        self.sum += seconds
