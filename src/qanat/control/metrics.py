"""What the control plane counts. Labels are names of our own code, never what clients send."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Metrics:
    """A registry of its own, so that several control planes can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "qanat_control_requests", "Requests answered.", ("operation", "status"), registry=registry
        )
        self.seconds = Histogram(
            "qanat_control_request_seconds", "Time until a request was answered.", ("operation",), registry=registry
        )
        self.first_times = Counter(
            "qanat_control_first_times",
            "Tunnels used for the first time, and connectors not seen before.",
            ("what",),
            registry=registry,
        )

        self.rate_limited = Counter(
            "qanat_control_rate_limited", "Requests refused for coming too often.", ("limit",), registry=registry
        )

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.requests.labels(operation, str(status)).inc()
        self.seconds.labels(operation).observe(seconds)


def metrics_app(metrics: Metrics) -> Starlette:
    """`/metrics` and `/healthz`."""

    async def render(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    async def health(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    return Starlette(routes=[Route("/metrics", render), Route("/healthz", health)])
