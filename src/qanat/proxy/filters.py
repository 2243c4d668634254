"""Where a policy takes hold of a route's requests: may answer them, change their headers, filter their answers.

A route without a filter costs nothing and no body is ever looked at; most routes have none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from qanat.net.http1_fields import Header, Headers
from qanat.proxy.errors import Reply


@dataclass(eq=False, slots=True)
class FilteredRequest:
    """A request before it is forwarded. A filter may change `headers` (hop-by-hop lines are gone already)."""

    route: str
    request_id: str
    method: bytes
    target: bytes
    host: str
    headers: list[Header]
    read_body: Callable[[int], Awaitable[bytes]]
    """Wait for the whole body, of at most so many bytes, and keep it for forwarding. Raises `BodyTooLarge`."""
    expires_at: float | None = None
    """Unix seconds at which the caller's right ends: an event stream still open then is ended cleanly."""
    notes: dict[str, object] = field(default_factory=dict)
    """The filter's own memory of this request, from `admit` to `finished`."""


class BodyTooLarge(Exception):
    """The body is larger than the filter is ready to read."""


class ResponseFilter(Protocol):
    """Changes an answer's body on its way. Its length is then no longer announced."""

    def receive(self, data: bytes) -> bytes:
        """Take a piece; return what may go on, possibly nothing yet."""
        ...

    def end(self) -> bytes:
        """The body is complete: return what was held back."""
        ...


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How a request ended. Status 499: the caller left first."""

    status: int
    error_type: str
    duration: float
    """Seconds."""
    bytes_in: int
    bytes_out: int


class RouteFilter(Protocol):
    """One route's policy."""

    @property
    def own_paths(self) -> Collection[str]:
        """Paths that `admit` always answers: they need not be among the route's `paths`, and never go on."""
        ...

    async def admit(self, request: FilteredRequest) -> Reply | None:
        """Judge a request before anything of it is forwarded. An answer returned is given instead.

        `ProxyError` may be raised for the same end. Cancelled when the caller leaves.
        """
        ...

    def filter_response(self, request: FilteredRequest, status: int, headers: Headers) -> ResponseFilter | None:
        """A filter for the body of this answer, if it needs one."""
        ...

    def finished(self, request: FilteredRequest, outcome: RequestOutcome) -> None:
        """The exchange is over; called once for each request that `admit` has seen."""
        ...
