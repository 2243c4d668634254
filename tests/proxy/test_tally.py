"""Counters in plain dictionaries: what a scrape makes of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from qanat.proxy.tally import Durations, Tally


def test_a_counter_and_a_gauge_show_their_labels_and_where_they_stand() -> None:
    registry = CollectorRegistry()
    requests = Tally(CounterMetricFamily, "requests", "Answered", ("route", "status"), registry)
    going_on = Tally(GaugeMetricFamily, "going_on", "Now", ("route",), registry)
    requests.step(("echo", 200))
    requests.step(("echo", 200))
    going_on.step(("echo",))
    going_on.step(("echo",), -1)
    text = generate_latest(registry).decode()
    assert 'requests_total{route="echo",status="200"} 2.0' in text
    assert 'going_on{route="echo"} 0.0' in text
    assert "# TYPE requests_total counter" in text


def test_durations_are_the_histogram_prometheus_would_have_made() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    buckets = (0.1, 1.0, 10.0)
    durations = Durations("seconds", "Taken", "route", buckets, ours)
    histogram = Histogram("seconds", "Taken", ["route"], buckets=buckets, registry=theirs)
    for seconds in (0.05, 0.1, 0.5, 1.0, 7.0, 11.0):
        durations.observe("echo", seconds)
        histogram.labels("echo").observe(seconds)
    expected = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == expected
