"""What is written down about one request: two log lines and the metrics. Never a header value, query or body."""

from __future__ import annotations

import hashlib
import secrets
import time

from qanat.log import get_logger
from qanat.net.http1 import Headers, values
from qanat.proxy.errors import ProxyError
from qanat.proxy.filters import RequestOutcome
from qanat.proxy.incoming import IncomingRequest
from qanat.proxy.metrics import ProxyMetrics

log = get_logger("qanat.proxy")
CLIENT_LEFT = 499
_HASH_KEY = secrets.token_bytes(32)


def session_hash(headers: Headers) -> str | None:
    """Twelve hex digits that stand for an MCP session in logs: keyed anew in each process, so of no use elsewhere."""
    sessions = values(headers, b"mcp-session-id")
    return hashlib.blake2b(sessions[0], key=_HASH_KEY, digest_size=6).hexdigest() if sessions else None


class RequestRecord:
    """Gathers what the two lines say."""

    __slots__ = (
        "_fields",
        "_metrics",
        "_started",
        "_ttfb",
        "bytes_in",
        "bytes_out",
        "error_type",
        "request",
        "request_id",
        "route",
        "status",
        "upstream",
    )

    def __init__(self, request: IncomingRequest, request_id: str, metrics: ProxyMetrics) -> None:
        self.request, self.request_id = request, request_id
        self._metrics = metrics
        self._started, self._ttfb = time.monotonic(), 0.0
        self.route, self.upstream, self.error_type = "", "", ""
        self.status = self.bytes_in = self.bytes_out = 0
        self._fields: dict[str, object] = {}

    def begin(self) -> None:
        """The request is about to be forwarded, or refused."""
        if log.enabled("info"):
            self._fields = self._make_fields()
            log.info("request started", **self._fields)
        if log.enabled("debug"):
            names = [name.decode("latin-1") for name, _ in self.request.headers]
            log.debug("request headers", request_id=self.request_id, names=names)

    def answered(self, status: int) -> None:
        """The answer's head is here."""
        self.status = status
        self._ttfb = time.monotonic() - self._started

    def failed(self, error: ProxyError) -> None:
        """Say in the log what the caller is not told."""
        self.error_type = error.code
        phrase = str(error) if error.code == "upstream_ip_denied" else error.log_phrase
        extra = {"error": error.detail} if error.detail else {}
        getattr(log, error.log_level)(
            phrase, request_id=self.request_id, route=self.route, host=self.request.authority.host, **extra
        )

    def finish(self) -> RequestOutcome:
        """The exchange is over."""
        duration = time.monotonic() - self._started
        self._count(duration)
        if log.enabled("info"):
            log.info(
                "request finished",
                **(self._fields or self._make_fields()),
                status=self.status,
                bytes_in=self.bytes_in,
                bytes_out=self.bytes_out,
                duration_ms=round(duration * 1000, 3),
                ttfb_ms=round(self._ttfb * 1000, 3),
                error_type=self.error_type or None,
            )
        return RequestOutcome(self.status, self.error_type, duration, self.bytes_in, self.bytes_out)

    def _count(self, duration: float) -> None:
        metrics, route = self._metrics, self.route
        metrics.count_request(route, self.request.method, self.status, duration, self._ttfb)
        if self.error_type == "no_route":
            metrics.no_route.inc()
        elif self.error_type == "upstream_ip_denied":
            metrics.denied.labels(route).inc()
        if self.error_type.startswith("upstream"):
            metrics.upstream_errors.labels(route, self.error_type).inc()

    def _make_fields(self) -> dict[str, object]:
        request = self.request
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "route": self.route,
            "host": request.authority.host,
            "method": request.method.decode("latin-1"),
            "path": request.path,
            "upstream": self.upstream,
            "proto": "HTTP/" + request.protocol.decode("ascii"),
        }
        if session := session_hash(request.headers):
            fields["session"] = session
        return fields
