"""The connector as a whole: `serve(config)` runs it, with the upstream of `--url` or with a handler of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

from qanat.connector.config import ConnectorConfig, parse_upstream, split_host_port
from qanat.connector.dial import Dialler
from qanat.connector.discovery import Discovery
from qanat.connector.metrics import CountedHandler, Metrics, StatusServer
from qanat.connector.state import Shared
from qanat.connector.supervisor import Supervisor
from qanat.connector.token_source import TokenSource
from qanat.connector.upstream import NowhereHandler, UpstreamHandler
from qanat.logger import get_logger
from qanat.tunnel.connection import StreamHandler

log = get_logger("qanat.connector")


class Connector:
    """A running connector. `metrics_address` is the bound host and port, or None."""

    def __init__(self, config: ConnectorConfig, handler: StreamHandler | None = None) -> None:
        self.config = config
        self.connector_id: UUID = uuid4()
        self.metrics = Metrics()
        self.metrics_address: tuple[str, int] | None = None
        self._upstream: UpstreamHandler | None = None
        if handler is None and config.url is not None:
            address = parse_upstream(config.url)
            handler = self._upstream = UpstreamHandler(address, self.connector_id, self.metrics.unreachable.inc)
        elif handler is None:
            handler = NowhereHandler()
            log.warn("No ingress rules were defined, answering every request with 503", hint="set --url")
        self._dialler = Dialler(config)
        self._shared = Shared(
            config=config,
            connector_id=self.connector_id,
            handler=CountedHandler(handler, self.metrics),
            dial=self._dialler.dial,
            tokens=TokenSource(config.token, config.token_file),
            discovery=Discovery(config),
            metrics=self.metrics,
        )
        self._supervisor = Supervisor(self._shared)
        self._status = StatusServer(self.metrics, self.connector_id, lambda: self.ready_connections)
        self._run: asyncio.Task[None] | None = None
        self.metrics.open_streams.set_function(lambda: float(self.open_streams))

    @property
    def ready_connections(self) -> int:
        """How many connections are registered."""
        return len(self._shared.live)

    @property
    def open_streams(self) -> int:
        """Streams open now, over all connections."""
        return sum(connection.open_streams for _, connection in self._shared.live.values())

    async def start(self) -> None:
        """Check the token, open the status server and begin to connect; does not wait for a connection.

        Raises `ConfigInvalid` or `TokenInvalid` for a token or CA file that is none, `OSError` when the metrics
        address is taken.
        """
        self._shared.tokens.read()
        self._dialler.check()
        if self.config.metrics is not None:
            self.metrics_address = await self._status.start(*split_host_port(self.config.metrics, 0))
            log.info("Starting metrics server", addr="{}:{}".format(*self.metrics_address))
        log.info("Starting tunnel", connectorID=self.connector_id, protocol=self.config.protocol)
        self._run = asyncio.create_task(self._supervisor.run())

    async def wait_ready(self, connections: int = 1) -> None:
        """Return once that many connections are registered. The caller bounds the wait."""
        assert self._run is not None
        while self.ready_connections < connections:
            changed = asyncio.create_task(self._shared.next_change())
            await asyncio.wait((changed, self._run), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if self._run.done():
                self._run.result()
                raise RuntimeError("the connector has stopped")

    async def wait_changed(self) -> None:
        """Return once a connection has come or gone."""
        await self._shared.next_change()

    async def wait_stopped(self) -> None:
        """Return once the connector has ended, whoever asked for it."""
        if self._run is not None:
            await asyncio.wait((self._run,))

    async def stop(self) -> None:
        """Stop gracefully: unregister, let streams finish within the grace period, close."""
        self._supervisor.stop()
        if self._run is not None:
            await self._run
            self._run = None
        await self._close()

    async def abort(self) -> None:
        """Stop at once, streams included."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)
            self._run = None
        await self._close()

    async def _close(self) -> None:
        if self._upstream is not None:
            await self._upstream.close()
        await self._status.close()


@asynccontextmanager
async def serve(config: ConnectorConfig, handler: StreamHandler | None = None) -> AsyncIterator[Connector]:
    """A running connector; stopped gracefully at the end. `handler` serves its streams in place of `config.url`."""
    connector = Connector(config, handler)
    await connector.start()
    try:
        yield connector
    finally:
        await connector.stop()
