"""Sends finished spans to a collector: OTLP over HTTP, in JSON (OpenTelemetry Protocol 1, section OTLP/HTTP).

Beside the requests, never in their way: what a collector does not take in time is lost, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2

from qanat import __version__
from qanat.logger import get_logger
from qanat.proxy.config import Tracing
from qanat.proxy.files import load_pem
from qanat.proxy.tracing.spans import Span

log = get_logger("qanat.proxy")
PATH = "/v1/traces"
MAX_WAITING = 4096
"""Spans that wait to be sent; what comes beyond is lost."""
BATCH = 128
"""Few enough that writing them as JSON does not hold up the requests."""
EVERY = 5.0
"""Seconds between two batches, unless one is full sooner."""
MAX_PAUSE = 60.0
"""Between two tries with a collector that is away."""
TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
FAREWELL = 0.4
"""Seconds that the last spans get at the end."""
_AWAY = frozenset((429, 502, 503, 504))
"""Answers after which a collector wants to be asked again; any other than 2xx means that it never will take these."""


class Exporter:
    """Keeps spans until they are sent, from the first one on. `count` hears how many were `sent` or `lost`."""

    def __init__(self, config: Tracing, count: Callable[[str, int], None]) -> None:
        """Raises `ConfigInvalid` when the collector's CA cannot be used."""
        self._url = config.otlp_endpoint.removesuffix("/").removesuffix(PATH) + PATH
        self._resource = _resource(config.service_name)
        self._count = count
        self._waiting: deque[Span] = deque()
        self._full = asyncio.Event()
        self._failing = self._closed = False
        self._task: asyncio.Task[None] | None = None
        tls = _collector_context(config.ca_file)
        self._client = httpx2.AsyncClient(verify=tls, timeout=TIMEOUT, follow_redirects=False, trust_env=False)

    def emit(self, span: Span) -> None:
        """Take a finished span."""
        if self._closed or len(self._waiting) >= MAX_WAITING:
            self._count("lost", 1)
            return
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._waiting.append(span)
        if len(self._waiting) >= BATCH:
            self._full.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._full.wait()
            self._full.clear()
            pause = EVERY
            while not await self._send_all():
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    async def close(self) -> None:
        """Send what is left, within `FAREWELL` seconds."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._send_all()
        if self._waiting:
            self._count("lost", len(self._waiting))
            self._waiting.clear()
        await self._client.aclose()

    async def _send_all(self) -> bool:
        """Whether the collector was there."""
        while self._waiting:
            batch = list(islice(self._waiting, BATCH))
            problem = await self._send(batch)
            if problem is None:
                self._settle(batch, "sent")
                continue
            if not self._failing:
                log.warn("spans cannot be sent", error=problem.text)
            self._failing = True
            if problem.passing:
                return False
            self._settle(batch, "lost")
        return True

    def _settle(self, batch: list[Span], result: str) -> None:
        for _ in batch:
            self._waiting.popleft()
        self._count(result, len(batch))
        if result == "sent" and self._failing:
            self._failing = False
            log.info("spans are sent again")

    async def _send(self, batch: list[Span]) -> _Problem | None:
        body = {
            "resourceSpans": [
                {
                    "resource": {"attributes": self._resource},
                    "scopeSpans": [{"scope": {"name": "qanat.proxy", "version": __version__}, "spans": batch}],
                }
            ]
        }
        try:
            async with self._client.stream("POST", self._url, json=body) as answer:  # whose body says nothing we need
                status = answer.status_code
        except Exception as error:  # the requests go on, whatever becomes of their spans
            return _Problem(f"{type(error).__name__}: {error}".removesuffix(": "), passing=True)
        return None if 200 <= status < 300 else _Problem(f"the collector answered {status}", status in _AWAY)


class _Problem:
    """Why a batch was not taken, and whether it may be later."""

    def __init__(self, text: str, passing: bool) -> None:
        self.text, self.passing = text, passing


def _resource(service_name: str) -> list[dict[str, Any]]:
    values = {"service.name": service_name, "service.version": __version__, "host.name": socket.gethostname()}
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def _collector_context(ca_file: Path | None) -> ssl.SSLContext:
    """The TLS client for the collector: trusts `ca_file`, or else the system's. Raises `ConfigInvalid`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    load_pem(ca_file, lambda: context.load_verify_locations(ca_file))
    return context
