"""An OpenTelemetry collector as far as OTLP over HTTP goes: it reads what comes by OpenTelemetry's own definitions."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS = ("traceId", "spanId", "parentSpanId")


@dataclass(frozen=True)
class Seen:
    """A span as the collector understood it. Ids in hex, times in nanoseconds."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, str | int]


@dataclass
class Collected:
    """What has come so far."""

    resource: dict[str, str | int] = field(default_factory=dict)
    spans: list[Seen] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Read one request. Raises what protobuf raises for anything that is not of its schema."""
        request = ExportTraceServiceRequest()
        json_format.Parse(json.dumps(_with_base64_ids(json.loads(body))), request)
        for resource_spans in request.resource_spans:
            self.resource = _values(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans += map(_seen, scope_spans.spans)


def _with_base64_ids(value: Any) -> Any:
    """OTLP writes ids in hex where protobuf's JSON has base64: its one exception."""
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode() if key in _IDS else _with_base64_ids(item)
            for key, item in value.items()
        }
    return [_with_base64_ids(item) for item in value] if isinstance(value, list) else value


def _seen(span: Any) -> Seen:
    return Seen(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == span.status.STATUS_CODE_ERROR,
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, str | int]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
