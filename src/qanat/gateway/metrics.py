"""What the gateway counts. Names of hosts, never contents."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from qanat.gateway.results import ToolResult

MAX_HOSTS = 1000


class Metrics:
    """A registry of its own, so that several gateways can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._hosts: set[str] = set()
        by_status = ("endpoint", "status")
        self.requests = Counter("qanat_gateway_requests", "Requests answered.", by_status, registry=registry)
        self.active = Gauge("qanat_gateway_active_requests", "Requests being answered.", registry=registry)
        self.iterations = Counter("qanat_gateway_iterations", "Samplings.", ("model",), registry=registry)
        self.tokens = Counter(
            "qanat_gateway_tokens", "Tokens the models reported.", ("model", "direction"), registry=registry
        )
        self._calls = Counter("qanat_gateway_tool_calls", "MCP tool calls.", ("host", "outcome"), registry=registry)
        self._seconds = Histogram(
            "qanat_gateway_tool_call_seconds", "Duration of MCP tool calls.", ("host",), registry=registry
        )
        self._bytes = Counter(
            "qanat_gateway_tool_result_bytes", "Text returned by MCP tools.", ("host",), registry=registry
        )
        self._failures = Counter(
            "qanat_gateway_server_failures",
            "MCP servers that could not be used.",
            ("host", "kind"),
            registry=registry,
        )
        self.events_dropped = Counter(
            "qanat_gateway_events_dropped", "Events the control plane never heard of.", registry=registry
        )

    def observe_call(self, host: str, result: ToolResult, seconds: float) -> None:
        """A tool call has ended."""
        label = self._label(host)
        self._calls.labels(label, "error" if result.is_error else "ok").inc()
        self._seconds.labels(label).observe(seconds)
        self._bytes.labels(label).inc(sum(len(block["text"]) for block in result.wire))

    def count_failure(self, host: str, kind: str) -> None:
        """A server could not be used at all."""
        self._failures.labels(self._label(host), kind).inc()

    def _label(self, host: str) -> str:
        """The host; `other` once there are too many, since callers choose the names."""
        if host not in self._hosts:
            if len(self._hosts) >= MAX_HOSTS:
                return "other"
            self._hosts.add(host)
        return host

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
