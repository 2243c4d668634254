"""What is told of one MCP call through a tunnel: route, method, tool, time, bytes, and the hop that failed."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from qanat.gateway.access import Caller
from qanat.gateway.events import EventQueue
from qanat.gateway.hops import hop_of
from qanat.gateway.mcp_link import Link, LinkFailed
from qanat.gateway.reach import Reach, Unreachable
from qanat.gateway.request import Server
from qanat.gateway.results import ToolResult


@dataclass(frozen=True)
class CallReport:
    """Reports the calls of one caller."""

    events: EventQueue
    reach: Reach
    caller: Caller

    def ended(
        self, server: Server, method: str, tool: str | None, seconds: float, link: Link | None, failure: Failure | None
    ) -> None:
        """A call is over. Calls that go through no tunnel of the caller's are nobody's business."""
        tunnel = self.reach.tunnel_id(self.caller, server.host)
        domain = self.reach.tunnel_domain(server.host)
        if tunnel is None or domain is None:
            return
        observed = link.observed if link is not None else None
        bytes_in, bytes_out = observed.take_bytes() if observed is not None else (0, 0)
        self.events.emit(
            "call",
            tunnel,
            route=server.host.removesuffix(f".{domain}"),
            path=urlsplit(server.url).path or "/",
            method=method,
            tool=tool,
            duration_ms=round(seconds * 1000, 1),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            error=None if failure is None else failure.error,
            hop=None if failure is None else failure.hop,
        )


@dataclass(frozen=True)
class Failure:
    """Why a call failed, without a word the server said."""

    error: str
    hop: str


def failure_of(failure: LinkFailed) -> Failure:
    """Of a server that could not be used."""
    if failure.refusal is not None:
        return Failure(failure.refusal[1], failure.refusal[0])
    if isinstance(failure.cause, Unreachable):
        return Failure(failure.cause.reason, "client")
    if failure.kind == "connection" and failure.cause is not None:
        return Failure(getattr(failure.cause, "reason", type(failure.cause).__name__), hop_of(failure.cause))
    return Failure(failure.reason, "upstream")


def failure_of_result(link: Link, result: ToolResult) -> Failure | None:
    """Of a call that ended, well or not."""
    if not result.is_error:
        return None
    observed = link.observed
    if observed is not None and observed.proxy_refusal is not None:
        return Failure(observed.proxy_refusal[1], observed.proxy_refusal[0])
    if observed is not None and observed.failure is not None:
        return Failure(getattr(observed.failure, "reason", type(observed.failure).__name__), hop_of(observed.failure))
    return Failure("tool error", "upstream")
