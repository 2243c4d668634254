"""What is written down about one request: two log lines and the metrics. Never a header value, query or body."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Final

from qanat.log_lines import decimal, milliseconds, quote
from qanat.logger import get_logger
from qanat.net.http1_fields import Remembering
from qanat.proxy.errors import ProxyError
from qanat.proxy.filters import RequestOutcome
from qanat.proxy.incoming import IncomingRequest
from qanat.proxy.metrics import ProxyMetrics

log: Final = get_logger("qanat.proxy")
CLIENT_LEFT: Final = 499
_now: Final = time.monotonic
_HASH_KEY: Final = secrets.token_bytes(32)


def _hash(session: bytes) -> str:
    """Twelve hex digits that stand for an MCP session in logs: keyed anew in each process, so of no use elsewhere."""
    return hashlib.blake2b(session, key=_HASH_KEY, digest_size=6).hexdigest()


_SESSION_HASHES: Final = Remembering(_hash)


class RequestRecord:
    """Gathers what the two lines say."""

    __slots__ = (
        "_duration",
        "_members",
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
        self._started, self._ttfb = _now(), 0.0
        self.route, self.upstream, self.error_type = "", "", ""
        self.status = self.bytes_in = self.bytes_out = 0
        self._members = ""

    def begin(self) -> None:
        """The request is about to be forwarded, or refused."""
        if not log.enabled("info"):
            return
        self._members = f'"request_id": "{self.request_id}", {self._describe()}'
        log.members("request started", self._members)
        if log.enabled("debug"):
            names = [name.decode("latin-1") for name, _ in self.request.headers]
            log.debug("request headers", request_id=self.request_id, names=names)

    def answered(self, status: int) -> None:
        """The answer's head is here."""
        self.status = status
        self._ttfb = _now() - self._started

    def failed(self, error: ProxyError) -> None:
        """Say in the log what the caller is not told."""
        self.error_type = error.code
        phrase = str(error) if error.code == "upstream_ip_denied" else error.log_phrase
        extra = {"error": error.detail} if error.detail else {}
        getattr(log, error.log_level)(
            phrase, request_id=self.request_id, route=self.route, host=self.request.authority.host, **extra
        )

    def finish(self) -> None:
        """The exchange is over."""
        duration = self._duration = _now() - self._started
        self._count(duration)
        if self._members:
            error_type = quote(self.error_type) if self.error_type else "null"
            log.members(
                "request finished",
                f'{self._members}, "status": {decimal(self.status)}, "bytes_in": {decimal(self.bytes_in)}, '
                f'"bytes_out": {decimal(self.bytes_out)}, "duration_ms": {milliseconds(duration)}, '
                f'"ttfb_ms": {milliseconds(self._ttfb)}, "error_type": {error_type}',
            )

    @property
    def outcome(self) -> RequestOutcome:
        """How it ended, once `finish` has been called."""
        return RequestOutcome(self.status, self.error_type, self._duration, self.bytes_in, self.bytes_out)

    def _count(self, duration: float) -> None:
        metrics, route = self._metrics, self.route
        metrics.count_request(route, self.request.method, self.status, duration, self._ttfb)
        if not self.error_type:
            return
        if self.error_type == "no_route":
            metrics.no_route.inc()
        elif self.error_type == "upstream_ip_denied":
            metrics.denied.labels(route).inc()
        if self.error_type.startswith("upstream"):
            metrics.upstream_errors.labels(route, self.error_type).inc()

    def _describe(self) -> str:
        """What both lines say besides the id, encoded once."""
        request = self.request
        route, upstream, text = request.described
        if text and route == self.route and upstream == self.upstream:
            return text
        text = (
            f'"route": {quote(self.route)}, '
            f'"host": {quote(request.authority.host)}, "method": {quote(request.method.decode("latin-1"))}, '
            f'"path": {quote(request.path)}, "upstream": {quote(self.upstream)}, '
            f'"proto": "HTTP/{request.protocol.decode("ascii")}"'
        )
        sessions = request.headers.by_name.get(b"mcp-session-id")
        if sessions:
            text = f'{text}, "session": "{_SESSION_HASHES[sessions[0]]}"'
        request.described = self.route, self.upstream, text
        return text
