"""The gateway as a running thing: sockets, clients and their lifetimes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from qanat import asgi
from qanat.api.control_client import ControlClient
from qanat.client import Edge
from qanat.clock import SystemClock
from qanat.errors import ConfigInvalid
from qanat.gateway.access import ControlPlane, Gatekeeper
from qanat.gateway.answer import Answering
from qanat.gateway.app import GatewayApp
from qanat.gateway.canary import Canary
from qanat.gateway.config import ControlSection, GatewayConfig, TLSFiles
from qanat.gateway.events import EventQueue
from qanat.gateway.metrics import Metrics
from qanat.gateway.models import Models
from qanat.gateway.oauth.vaults import Vaults
from qanat.gateway.reach import Reach
from qanat.gateway.tool_cache import ToolCache
from qanat.logger import get_logger

log = get_logger("qanat.gateway")


@dataclass(frozen=True)
class Gateway:
    """A gateway that serves. `url` has the port that was really bound."""

    url: str
    address: tuple[str, int]
    metrics: Metrics
    metrics_address: tuple[str, int] | None


@asynccontextmanager
async def serve(
    config: GatewayConfig, *, control: ControlPlane | None = None, edge: Edge | None = None
) -> AsyncIterator[Gateway]:
    """Run a gateway for as long as the context lasts.

    `control` and `edge` replace what the configuration would connect to. Raises `ConfigInvalid` and `OSError`.
    """
    # The SDK logs what servers sent when it cannot parse it: contents have no place in our log.
    for name in ("mcp", "client"):  # the second is what the SDK's sessions call themselves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        plane: ControlPlane
        if control is not None:
            plane = control
        else:
            plane = await stack.enter_async_context(to_control_client(config.control))
        timeout = httpx2.Timeout(config.limits.connect.total_seconds(), read=config.limits.request.total_seconds())
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=timeout, limits=limits))
        metrics = Metrics()
        reach = Reach(config, plane, edge)
        stack.push_async_callback(reach.aclose)
        await stack.enter_async_context(followed(reach))
        cache = ToolCache(config.tool_cache.total_seconds())
        answering = Answering(config, Models(config, http), reach, cache, metrics)
        if config.oauth is not None:
            answering.vaults = Vaults(reach, config.oauth)
            stack.push_async_callback(answering.vaults.aclose)
        if isinstance(plane, ControlClient):
            answering.events = await stack.enter_async_context(reporting(config, plane, reach.edge, metrics))
        app = GatewayApp(answering, Gatekeeper(plane))
        address = await stack.enter_async_context(listen(app, config.listen, config, config.tls))
        metrics_address = None
        if config.metrics is not None:
            metrics_listener = listen(metrics_app(metrics), config.metrics, config, None)
            metrics_address = await stack.enter_async_context(metrics_listener)
        scheme = "https" if config.tls is not None else "http"
        log.info("gateway listening", address=f"{address[0]}:{address[1]}", models=list(config.models))
        yield Gateway(f"{scheme}://{address[0]}:{address[1]}", address, metrics, metrics_address)
        log.info("gateway stopping")


@asynccontextmanager
async def followed(reach: Reach) -> AsyncIterator[None]:
    """Hear of changed tunnels for as long as the context lasts."""
    task = asyncio.create_task(reach.records.follow(), name="changes")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def reporting(
    config: GatewayConfig, plane: ControlClient, edge: Edge | None, metrics: Metrics
) -> AsyncIterator[EventQueue]:
    """Tell the control plane of calls and of watched routes, for as long as the context lasts."""
    events = EventQueue(config.name, SystemClock(), metrics)
    tasks = [asyncio.create_task(events.run(plane), name="events")]
    if edge is not None and config.canary.enabled:
        canary = Canary(plane, edge, config.canary, events)
        tasks.append(asyncio.create_task(canary.run(), name="canary"))
    try:
        yield events
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def to_control_client(section: ControlSection) -> ControlClient:
    """The client a section describes. Raises `ConfigInvalid` when the key file cannot be read."""
    key = section.service_key
    if key is None:
        assert section.service_key_file is not None
        key = SecretStr(_read(section.service_key_file, "control.service_key_file"))
    return ControlClient(section.url, key, ca_file=section.ca_file)


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid([f"{key}: {path}: {getattr(error, 'strerror', 'not text')}"]) from error


@asynccontextmanager
async def listen(
    app: ASGIApp, address: str, config: GatewayConfig, tls: TLSFiles | None
) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` on `host:port`; yields the address that was bound."""
    listener = asgi.bind(address)
    host, port = listener.getsockname()[:2]
    async with asgi.serving(app, listener, tls=tls, grace=config.shutdown_timeout.total_seconds()):
        yield host, port


def metrics_app(metrics: Metrics) -> Starlette:
    """`/metrics` and `/healthz`, for an address that callers do not reach."""

    async def render(_: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")

    async def health(_: Request) -> Response:
        return Response("ok\n")

    return Starlette(routes=[Route("/metrics", render), Route("/healthz", health)])
