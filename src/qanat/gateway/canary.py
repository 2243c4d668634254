"""Probes of watched routes: the way a call takes, end to end, every few seconds, with a verdict that names the hop.

Each probe makes a session of its own, so that it meets today's certificates and today's connector, not those of a
session that is still up from yesterday.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2
from cryptography import x509

from qanat.api.internal import TunnelRecord, Watch, Watches
from qanat.client import Edge, TunnelError, TunnelTransport
from qanat.errors import QanatError
from qanat.gateway.config import CanarySection
from qanat.gateway.events import EventQueue
from qanat.gateway.hops import hop_of, hop_of_answer, in_words
from qanat.gateway.reach import load_anchors
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
AT_ONCE = 16
"""Probes that run at the same time."""


class WatchSource(Protocol):
    """Who knows what to probe. Raises `QanatError` when it cannot answer now."""

    async def watches(self) -> Watches: ...

    async def by_domain(self, domain: str) -> TunnelRecord | None: ...


@dataclass(frozen=True)
class Verdict:
    """What a probe found. Without `hop` the upstream answered."""

    hop: str | None = None
    error: str | None = None
    times: dict[str, float] = field(default_factory=dict)
    """Milliseconds: `tunnel_ms` to a session with the proxy, `upstream_ms` from there to the upstream and back."""


class Canary:
    """Probes for ever, and goes on with what it knew while the control plane is away."""

    def __init__(self, source: WatchSource, edge: Edge, config: CanarySection, events: EventQueue) -> None:
        self._source, self._edge, self._config, self._events = source, edge, config, events
        self._watches: tuple[Watch, ...] = ()
        self._records: dict[str, TunnelRecord | None] = {}

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._ask()
            except (QanatError, OSError) as error:
                log.debug("canary goes on with what it knew", error=str(error))
            try:
                await self.probe_all()
            except Exception:  # a bug must not end the probing
                log.exception("a round of probes failed")
            await asyncio.sleep(max(0.0, self._config.interval.total_seconds() - (loop.time() - started)))

    async def _ask(self) -> None:
        self._watches = (await self._source.watches()).watches
        domains = {watch.domain for watch in self._watches}
        self._records = {domain: await self._source.by_domain(domain) for domain in domains}

    async def probe_all(self) -> None:
        """One round; each route's verdict becomes an event as soon as it is known."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def judge(watch: Watch) -> None:
            async with gate:
                verdict = await self._judge(watch)
            self._events.emit(
                "canary", watch.tunnel_id, route=watch.route, path=watch.path, ok=verdict.hop is None,
                hop=verdict.hop, error=verdict.error, **verdict.times,
            )  # fmt: skip

        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(judge(watch))

    async def _judge(self, watch: Watch) -> Verdict:
        record = self._records.get(watch.domain)
        if record is None or record.archived:
            return Verdict("client", "the tunnel is unknown or archived")
        url = f"https://{watch.route}.{watch.domain}{watch.path}"
        timeout = self._config.timeout.total_seconds()
        return await probe(self._edge, url, load_anchors(record.ca_certificates), timeout)


async def probe(edge: Edge, url: str, anchors: Sequence[x509.Certificate], timeout: float) -> Verdict:
    """Ask for `OPTIONS` of a URL through a new session; whatever the upstream answers, it is there. Never raises."""

    async def trusted(_: str) -> Sequence[x509.Certificate]:
        return anchors

    loop = asyncio.get_running_loop()
    started = loop.time()
    connected: list[float] = []

    async def trace(event: str, _: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            connected.append(loop.time())

    try:
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(transport=TunnelTransport(edge, trusted), timeout=timeout, trust_env=False) as http,
            http.stream("OPTIONS", url, extensions={"trace": trace}) as response,
        ):
            answered, headers = loop.time(), response.headers
    except (TimeoutError, httpx2.HTTPError, QanatError, OSError) as error:
        return _failed(error, bool(connected))
    if (refusal := hop_of_answer(headers)) is not None:
        hop, code = refusal
        return Verdict(hop, in_words(code), _times(started, connected, answered))
    return Verdict(times=_times(started, connected, answered))


def _failed(error: BaseException, in_session: bool) -> Verdict:
    if isinstance(error, TunnelError):
        return Verdict(hop_of(error), f"{error.message} ({error.reason})")
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return Verdict("upstream" if in_session else "edge", "no answer in time")
    return Verdict("proxy" if in_session else "edge", f"the session broke: {type(error).__name__}")


def _times(started: float, connected: list[float], answered: float) -> dict[str, float]:
    if not connected:
        return {}
    return {
        "tunnel_ms": round((connected[0] - started) * 1000, 1),
        "upstream_ms": round((answered - connected[0]) * 1000, 1),
    }
