"""What the proxy counts, for Prometheus. Label values come from the configuration only, never from a caller."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from qanat.proxy.tally import Durations, Tally

_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")}
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class ProxyMetrics:
    """One proxy's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Tally(
            CounterMetricFamily, "mcp_proxy_requests", "Requests answered", ("route", "method", "status"), registry
        )
        self.seconds = Durations(
            "mcp_proxy_request_seconds", "From a request's head to its end", "route", _BUCKETS, registry
        )
        self.ttfb = Durations(
            "mcp_proxy_ttfb_seconds", "From a request's head to the answer's", "route", _BUCKETS, registry
        )
        self.in_flight = Tally(
            GaugeMetricFamily, "mcp_proxy_in_flight", "Requests being forwarded", ("route",), registry
        )
        self.streams = Gauge("mcp_proxy_streams", "Event streams open", ["route", "kind"], registry=registry)
        self.websockets = Gauge("mcp_proxy_websockets", "WebSockets open", registry=registry)
        self.handshakes = Counter("mcp_proxy_tls_handshakes", "Inner TLS handshakes", ["result"], registry=registry)
        self.denied = Counter(
            "mcp_proxy_ip_validation_failures", "Upstream addresses refused", ["route"], registry=registry
        )
        self.no_route = Counter("mcp_proxy_no_route", "Requests for a host without a route", registry=registry)
        self.upstream_errors = Counter(
            "mcp_proxy_upstream_errors", "Requests an upstream failed", ["route", "type"], registry=registry
        )
        self.decisions = Counter(
            "mcp_proxy_tool_decisions", "What a route's policy decided", ["route", "decision"], registry=registry
        )
        self.not_after = Gauge(
            "mcp_proxy_cert_not_after_seconds", "When the server certificate ends, as Unix time", registry=registry
        )
        self.reload_success = Gauge(
            "mcp_proxy_config_reload_success",
            "1 when the file was last taken up, 0 when it was refused",
            registry=registry,
        )
        self.reload_success.set(1)
        self.spans = Counter(
            "mcp_proxy_spans", "Spans that a collector took, and those it did not", ["result"], registry=registry
        )

    def count_request(self, route: str, method: bytes, status: int, duration: float, ttfb: float) -> None:
        """A request is over. Times are seconds; `ttfb` is 0 when no answer came."""
        self.requests.step((route, _METHODS.get(method, "other"), status))
        self.seconds.observe(route, duration)
        if ttfb:
            self.ttfb.observe(route, ttfb)
