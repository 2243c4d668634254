"""Runs a route's filter on one exchange: lends it the body, applies its response filter, tells it the outcome."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qanat.errors import ProtocolError
from qanat.net.http1 import ResponseReceived
from qanat.net.http1_fields import Header
from qanat.proxy.errors import Reply, UpstreamBroken
from qanat.proxy.filters import BodyTooLarge, FilteredRequest, RequestOutcome, ResponseFilter, RouteFilter
from qanat.proxy.headers import expects_continue

if TYPE_CHECKING:
    from qanat.proxy.exchange import Exchange


class FilterRun:
    """One request's way through a filter."""

    def __init__(self, route_filter: RouteFilter, exchange: Exchange) -> None:
        self._filter, self._exchange = route_filter, exchange
        self._request: FilteredRequest | None = None
        self._response: ResponseFilter | None = None
        self._progress = asyncio.Event()
        self.reads_body = False

    async def admit(self, request_id: str, headers: list[Header]) -> Reply | None:
        """Ask the filter."""
        incoming = self._exchange.request
        self._request = FilteredRequest(
            self._exchange.record.route,
            request_id,
            incoming.method,
            incoming.target,
            incoming.authority.host,
            headers,
            self._read_body,
        )
        return await self._filter.admit(self._request)

    @property
    def expires_at(self) -> float | None:
        """Unix seconds at which the caller's right ends."""
        return None if self._request is None else self._request.expires_at

    def body_received(self) -> None:
        """More of the body is there, or its end."""
        self._progress.set()

    async def _read_body(self, limit: int) -> bytes:
        self.reads_body = True
        if self._exchange.request.length > limit:
            raise BodyTooLarge
        self._meet_expectation()
        while True:
            size, ended = self._exchange.body_so_far
            if size > limit:
                raise BodyTooLarge
            if ended:
                return self._exchange.take_body_copy()
            self._progress.clear()
            self._exchange.want_body()
            await self._progress.wait()

    def _meet_expectation(self) -> None:
        """The upstream will get head and body together: what the caller waits for is for us to say."""
        assert self._request is not None
        headers = self._request.headers
        if expects_continue(headers):
            headers[:] = [header for header in headers if header[0].lower() != b"expect"]
            if self._exchange.body_so_far == (0, False):
                self._exchange.invite_body()

    def filter_response(self, response: ResponseReceived) -> bool:
        """Whether the answer's body will be changed."""
        if self._request is not None:
            self._response = self._filter.filter_response(self._request, response.status, response.headers)
        return self._response is not None

    def response_body(self, data: bytes) -> bytes:
        """What goes on of a piece of the answer. Raises `UpstreamBroken` for one that cannot be judged."""
        try:
            return data if self._response is None else self._response.receive(data)
        except ProtocolError as refused:
            raise UpstreamBroken(refused.reason) from refused

    def response_end(self) -> bytes:
        """What was held back. Raises as `response_body` does."""
        try:
            return b"" if self._response is None else self._response.end()
        except ProtocolError as refused:
            raise UpstreamBroken(refused.reason) from refused

    def finished(self, outcome: RequestOutcome) -> None:
        """The exchange is over."""
        if self._request is not None:
            self._filter.finished(self._request, outcome)
