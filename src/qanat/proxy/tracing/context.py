"""W3C Trace Context (level 1): the `traceparent` that came, and the one that goes on. Pure."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from qanat.net.http1_fields import Block, Fields, Outgoing

TRACEPARENT = b"traceparent"
_FIELDS = frozenset((TRACEPARENT, b"tracestate"))
_SAMPLED = 0x01
_SHAPE = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_NEVER = "ff"


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose request this is. Ids are lower-case hex of 32 and 16 digits."""

    trace_id: str
    span_id: str
    sampled: bool


def parent_of(headers: Fields) -> Parent | None:
    """What the caller says, None where it says nothing that can be read (section 3.2.2): then a trace begins here."""
    given = headers.by_name.get(TRACEPARENT, ())
    match = _SHAPE.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id = (part.decode("ascii") for part in match.group(1, 2, 3))
    if version == _NEVER or (version == "00" and match[5]) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED))


def continued(headers: Outgoing, trace_id: str, span_id: str, sampled: bool, restarted: bool) -> Outgoing:
    """The same lines with our span as the parent. `restarted`: nor does the old `tracestate` go on (section 3.3.1)."""
    dropped = _FIELDS if restarted else {TRACEPARENT}
    kept = [header for header in headers.block.lines if header[0].lower() not in dropped]
    value = f"00-{trace_id}-{span_id}-{_SAMPLED if sampled else 0:02x}".encode("ascii")
    return Outgoing(Block(kept), [*headers.own, (TRACEPARENT, value)])


def new_trace_id() -> str:
    """Random, and so never all zeros."""
    return secrets.token_hex(16)


def new_span_id() -> str:
    """The same for a span."""
    return secrets.token_hex(8)
