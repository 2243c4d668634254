"""Two spans for each request: the server span of its whole, and in it the client span of the call upstream.

Names and attributes are OpenTelemetry's for HTTP. Like the log, they hold no header value, query or body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qanat.net.http1_fields import Fields, Outgoing
from qanat.proxy.tracing.context import continued, new_span_id, new_trace_id, parent_of

if TYPE_CHECKING:
    from qanat.proxy.record import RequestRecord
    from qanat.proxy.route import Route

Span = dict[str, Any]
"""A span in OTLP's JSON: ids in hex, times as nanoseconds in text."""
_SERVER, _CLIENT = 2, 3
_ERROR = 2
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_ALL = 2**64


class Tracer:
    """Decides what is traced, and hands finished spans to `emit`.

    A caller's own decision is followed; of the traces that begin here, `sample_ratio` of all are kept.
    """

    def __init__(self, emit: Callable[[Span], None], sample_ratio: float) -> None:
        self._emit, self._bound = emit, int(sample_ratio * _ALL)

    def begin(self, headers: Fields) -> RequestTrace:
        """A request has come."""
        parent = parent_of(headers)
        if parent is not None:
            return RequestTrace(self._emit, parent.trace_id, parent.span_id, parent.sampled)
        trace_id = new_trace_id()
        return RequestTrace(self._emit, trace_id, "", int(trace_id[16:], 16) < self._bound)


class RequestTrace:
    """The spans of one request."""

    def __init__(self, emit: Callable[[Span], None], trace_id: str, parent_id: str, sampled: bool) -> None:
        self._emit, self._trace_id, self._parent_id, self._sampled = emit, trace_id, parent_id, sampled
        self._server_id, self._client_id = new_span_id(), new_span_id()
        self._began, self._called, self._answered = time.time_ns(), 0, 0
        self._clock = time.perf_counter_ns()

    def onward(self, headers: Outgoing) -> Outgoing:
        """The lines to send upstream. A trace that somebody else chose not to keep is left as it is."""
        if self._parent_id and not self._sampled:
            return headers
        return continued(headers, self._trace_id, self._client_id, self._sampled, restarted=not self._parent_id)

    def called(self) -> None:
        """A connection to the upstream is being taken or made."""
        self._called = self._called or self._now()

    def answered(self, status: int) -> None:
        """The upstream's answer begins."""
        self._answered = status

    def finish(self, record: RequestRecord, route: Route | None) -> None:
        """The request is over."""
        if not self._sampled:
            return
        end = self._now()
        if self._called and route is not None:
            self._emit(self._client_span(record, route, end))
        self._emit(self._server_span(record, end))

    def _now(self) -> int:
        """Nanoseconds since 1970, on a clock that never steps within a request."""
        return self._began + time.perf_counter_ns() - self._clock

    def _server_span(self, record: RequestRecord, end: int) -> Span:
        request, method = record.request, _method(record)
        failed = record.error_type or ("" if record.status < 500 else str(record.status))
        span = self._span(self._server_id, self._parent_id, _SERVER, self._began, end)
        span["name"] = f"{method} {record.route}" if record.route else method
        span["attributes"] = _attributes(
            {
                **_request_attributes(record),
                "url.scheme": "https",
                "url.path": request.path,
                "server.address": request.authority.host,
                "http.response.status_code": record.status,
                "http.request.body.size": record.bytes_in,
                "http.response.body.size": record.bytes_out,
                "error.type": failed,
                "qanat.route": record.route,
                "qanat.request_id": record.request_id,
            }
        )
        if failed and (record.status >= 500 or record.status < 400):  # what is the caller's fault is no error of ours
            span["status"] = {"code": _ERROR}
        return span

    def _client_span(self, record: RequestRecord, route: Route, end: int) -> Span:
        url = route.destination.url
        own = record.error_type if not self._answered or record.error_type == "upstream_aborted" else ""
        failed = own or ("" if self._answered < 400 else str(self._answered))
        span = self._span(self._client_id, self._server_id, _CLIENT, self._called, end)
        span["name"] = _method(record)
        span["attributes"] = _attributes(
            {
                **_request_attributes(record),
                "url.full": f"{url}{record.request.path}" if url.port else "",
                "server.address": url.host if url.port else "",
                "server.port": url.port,
                "http.response.status_code": self._answered,
                "error.type": failed,
            }
        )
        if failed and failed != "client_disconnected":
            span["status"] = {"code": _ERROR}
        return span

    def _span(self, span_id: str, parent_id: str, kind: int, start: int, end: int) -> Span:
        ids = {"traceId": self._trace_id, "spanId": span_id}
        if parent_id:
            ids["parentSpanId"] = parent_id
        return {**ids, "kind": kind, "startTimeUnixNano": str(start), "endTimeUnixNano": str(end)}


def _method(record: RequestRecord) -> str:
    """A caller may write any word there; names of spans are few."""
    method = record.request.method.decode("latin-1")
    return method if method in _METHODS else "HTTP"


def _request_attributes(record: RequestRecord) -> dict[str, str | int]:
    method = record.request.method.decode("latin-1")
    known = method in _METHODS
    return {
        "http.request.method": method if known else "_OTHER",
        "network.protocol.name": "http",
        "network.protocol.version": record.request.protocol.decode("ascii"),
    }


def _attributes(values: dict[str, str | int]) -> list[dict[str, Any]]:
    """In OTLP's JSON, without those that say nothing. Lone surrogates and the like cannot occur: texts are latin-1."""
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
        if value or key.endswith("size")
    ]
