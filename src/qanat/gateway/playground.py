"""One MCP server asked for its tools, and perhaps called, for a person at the console; every stretch of the way timed.

A session of its own each time, so that each stretch is really travelled. Nothing of it is kept: not the arguments, not
the result, not the token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from cryptography import x509

from qanat.api.internal import OfferedTool, Stretch, Trial, TrialOutcome, TunnelRecord
from qanat.client import Edge, TunnelTransport
from qanat.gateway.access import Caller
from qanat.gateway.calls import CallReport, Failure, failure_of, failure_of_result
from qanat.gateway.config import Limits
from qanat.gateway.errors import APIError, invalid
from qanat.gateway.events import EventQueue
from qanat.gateway.mcp_link import Link, LinkFailed
from qanat.gateway.reach import Reach, load_anchors
from qanat.gateway.request import Server, Toolset
from qanat.gateway.results import ToolResult
from qanat.gateway.servers import BearerAuth
from qanat.gateway.tools import Listing

AT_ONCE = 8
TOTAL = 60.0
"""Seconds for the whole of it."""
MAX_BODY = 128 * 1024
MAX_TOOLS, MAX_LISTING, MAX_RESULT = 200, 256 * 1024, 256 * 1024
CUT = "\n[cut: longer than 256 KiB]"
Hop = Literal["edge", "connector", "proxy", "upstream"]
What = Literal["connect", "tunnel", "inner_tls", "initialize", "tools/list", "tools/call"]
DIALLED: dict[str, tuple[Hop, What]] = {
    "edge": ("edge", "connect"),
    "connector": ("connector", "tunnel"),
    "proxy": ("proxy", "inner_tls"),
}
IN_ORDER: tuple[Hop, ...] = ("edge", "connector", "proxy", "upstream")


class Stopwatch:
    """The stretches of one way, each measured from the end of the one before."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self.stretches: list[Stretch] = []

    def passed(self, hop: Hop, what: What) -> None:
        """A stretch is behind."""
        now = self._clock()
        self.stretches.append(Stretch(hop=hop, what=what, ms=round((now - self._last) * 1000, 1)))
        self._last = now

    def dialled(self, name: str) -> None:
        """A stretch of dialling is behind; of further sessions nothing is noted."""
        hop, what = DIALLED[name]
        if all(stretch.what != what for stretch in self.stretches):
            self.passed(hop, what)

    @property
    def waiting_for(self) -> Hop:
        """The hop that has not answered yet."""
        reached = {stretch.hop for stretch in self.stretches}
        return next((hop for hop in IN_ORDER if hop not in reached), "upstream")


@dataclass
class Playground:
    """Tries what people at the console ask for."""

    reach: Reach
    limits: Limits
    events: EventQueue | None = None
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def run(self, trial: Trial, caller: Caller) -> TrialOutcome:
        """Ask, and say how it went. Raises `APIError` for what is no request to a tunnel, or when too many run."""
        self.reach.check_url(trial.url)
        host = (urlsplit(trial.url).hostname or "").lower().rstrip(".")
        if self.reach.tunnel_domain(host) is None:
            raise invalid("url: names no host behind a tunnel")
        if self._gate.locked():
            raise APIError(429, "Too many playground requests at once")
        async with self._gate:
            found = await self.reach.find(caller, host)
            if isinstance(found, str):
                return TrialOutcome(hop="client", error=found)
            if self.reach.edge is None:
                return TrialOutcome(hop="client", error="no edge is configured")
            return await self._try(trial, caller, found, self.reach.edge)

    async def _try(self, trial: Trial, caller: Caller, record: TunnelRecord, edge: Edge) -> TrialOutcome:
        watch = Stopwatch()
        auth = BearerAuth(trial.authorization_token) if trial.authorization_token is not None else None
        source = _Source(edge, load_anchors(record.ca_certificates), watch)
        link = Link(trial.url, auth, source.open, self._bounded())
        report = _Report(self.events, self.reach, caller, trial) if self.events is not None else None
        try:
            async with asyncio.timeout(TOTAL):
                return await _converse(link, trial, watch, report)
        except LinkFailed as failure:
            problem = failure_of(failure)
        except TimeoutError:
            problem = Failure("no answer in time", watch.waiting_for)
        finally:
            await link.close()
        if report is not None:
            report.tell(link, problem)
        return TrialOutcome(times=tuple(watch.stretches), hop=problem.hop, error=problem.error)

    def _bounded(self) -> Limits:
        """The limits of calls, none longer than the whole may take."""
        longest = timedelta(seconds=TOTAL)
        return self.limits.model_copy(update={"tool_call": min(self.limits.tool_call, longest)})


@dataclass
class _Source:
    """Makes the transport of one session."""

    edge: Edge
    anchors: Sequence[x509.Certificate]
    watch: Stopwatch

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx2.AsyncBaseTransport]:
        async def trusted(_: str) -> Sequence[x509.Certificate]:
            return self.anchors

        transport = TunnelTransport(self.edge, trusted, told=self.watch.dialled)
        try:
            yield transport
        finally:
            await transport.aclose()


class _Report:
    """Tells operators of the call, as of any other."""

    def __init__(self, events: EventQueue, reach: Reach, caller: Caller, trial: Trial) -> None:
        toolset = Toolset(type="mcp_toolset", mcp_server_name="playground")
        self._server = Server(0, "playground", trial.url, None, toolset, None)
        self._report, self._tool = CallReport(events, reach, caller), trial.tool
        self._started = asyncio.get_running_loop().time()

    def tell(self, link: Link, failure: Failure | None) -> None:
        method = "tools/list" if self._tool is None else "tools/call"
        seconds = asyncio.get_running_loop().time() - self._started
        self._report.ended(self._server, method, self._tool, seconds, link, failure)


async def _converse(link: Link, trial: Trial, watch: Stopwatch, report: _Report | None) -> TrialOutcome:
    """Connect, list, and call. Raises `LinkFailed`."""
    await link.open()
    watch.passed("upstream", "initialize")
    listing, _ = await link.list_tools()
    watch.passed("upstream", "tools/list")
    tools, left_out = list_offered(listing)
    result: ToolResult | None = None
    if trial.tool is not None:
        result = await link.call(trial.tool, trial.arguments)
        watch.passed("upstream", "tools/call")
    problem = failure_of_result(link, result) if result is not None else None
    if report is not None:
        report.tell(link, problem)
    broken = problem is not None and problem.error != "tool error"
    return TrialOutcome(
        tools=tools,
        left_out=left_out,
        result=None if result is None else to_texts(result),
        is_error=result is not None and result.is_error,
        times=tuple(watch.stretches),
        hop=problem.hop if problem is not None and broken else None,
        error=problem.error if problem is not None and broken else None,
    )


def list_offered(listing: Listing) -> tuple[tuple[OfferedTool, ...], int]:
    """As many tools as there is room for, and how many there was none for."""
    shown: list[OfferedTool] = []
    room = MAX_LISTING
    for tool in listing[:MAX_TOOLS]:
        entry = {"name": tool.name, "description": tool.description, "input_schema": dict(tool.input_schema)}
        text = _encode(entry)
        room -= len(text)
        if room < 0:
            break
        shown.append(OfferedTool.model_validate_json(text))
    return tuple(shown), len(listing) - len(shown)


def _encode(value: Any) -> bytes:
    """JSON, also of text that is no Unicode: servers may send half a surrogate pair."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def to_texts(result: ToolResult) -> tuple[str, ...]:
    texts: list[str] = []
    room = MAX_RESULT
    for block in result.wire:
        text = str(block["text"]).encode("utf-8", "replace").decode()
        texts.append(text if len(text) <= room else text[:room] + CUT)
        room -= len(text)
        if room <= 0:
            break
    return tuple(texts)
