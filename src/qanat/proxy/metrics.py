"""What the proxy counts, for Prometheus. Label values come from the configuration only, never from a caller."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_METHODS = frozenset(("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"))
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class ProxyMetrics:
    """One proxy's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "mcp_proxy_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mcp_proxy_request_seconds",
            "From a request's head to its end",
            ["route"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.ttfb = Histogram(
            "mcp_proxy_ttfb_seconds",
            "From a request's head to the answer's",
            ["route"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.in_flight = Gauge("mcp_proxy_in_flight", "Requests being forwarded", ["route"], registry=registry)
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
        self._of_request: dict[tuple[str, str, int], Counter] = {}
        self._of_route: dict[str, tuple[Histogram, Histogram, Gauge]] = {}

    def count_request(self, route: str, method: bytes, status: int, duration: float, ttfb: float) -> None:
        """A request is over. Times are seconds; `ttfb` is 0 when no answer came."""
        key = (route, method_label(method), status)
        counter = self._of_request.get(key)
        if counter is None:  # looking labels up costs more than counting
            counter = self._of_request[key] = self.requests.labels(key[0], key[1], str(status))
        counter.inc()
        seconds, first, _ = self._route(route)
        seconds.observe(duration)
        if ttfb:
            first.observe(ttfb)

    def count_in_flight(self, route: str, change: int) -> None:
        """A request has begun (1) or is over (-1)."""
        self._route(route)[2].inc(change)

    def _route(self, route: str) -> tuple[Histogram, Histogram, Gauge]:
        known = self._of_route.get(route)
        if known is None:
            known = (self.seconds.labels(route), self.ttfb.labels(route), self.in_flight.labels(route))
            self._of_route[route] = known
        return known


def method_label(method: bytes) -> str:
    """A request method as a label: the usual ones, and `other`."""
    text = method.decode("latin-1")
    return text if text in _METHODS else "other"
