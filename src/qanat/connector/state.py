"""What the connector's slots share, and what each of them needs."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from qanat import __version__
from qanat.connector.config import ConnectorConfig
from qanat.connector.discovery import Discovery
from qanat.connector.ladder import RUNGS, Ladder
from qanat.connector.metrics import Metrics
from qanat.connector.spread import EdgeAddress, Spread
from qanat.connector.token_source import TokenSource
from qanat.tunnel.connection import ConnectorConnection, ConnectorInfo, RegistrationRequest, StreamHandler

FEATURES = ("allow_remote_config", "serialized_headers", "support_quic_eof")
"""Of the features stock connectors announce, those we have."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}

Dial = Callable[[str, EdgeAddress, StreamHandler], Awaitable[ConnectorConnection]]
"""Open a connection on a rung, ready to register. Raises `OSError`, `TimeoutError` or `QanatError`."""


@dataclass
class Shared:
    """One connector's state. `live` holds the registered connections by index."""

    config: ConnectorConfig
    connector_id: UUID
    handler: StreamHandler
    dial: Dial
    tokens: TokenSource
    discovery: Discovery
    metrics: Metrics = field(default_factory=Metrics)
    spread: Spread = field(default_factory=Spread)
    live: dict[int, tuple[EdgeAddress, ConnectorConnection]] = field(default_factory=dict)
    dialling: dict[int, EdgeAddress] = field(default_factory=dict)
    """Where slots are just now dialling to, so that two do not choose the same edge."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while at least one connection is registered."""

    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ladder = Ladder(RUNGS[self.config.protocol])

    def request(self, index: int, attempts: int, protocol: str) -> RegistrationRequest:
        """What the slot `index` asks of the edge. Raises `ConfigInvalid`, `TokenInvalid`."""
        token = self.tokens.read()
        machine = platform.machine()
        info = ConnectorInfo(
            connector_id=self.connector_id,
            version=f"qanat/{__version__}",
            arch=f"{platform.system().lower()}_{ARCHITECTURES.get(machine, machine)}",
            features=FEATURES,
            address="",
            protocol=protocol,
        )
        return RegistrationRequest(
            token.account_tag, token.tunnel_uuid, token.secret, index, info, previous_attempts=min(attempts, 255)
        )

    def in_use(self) -> list[EdgeAddress]:
        """The addresses that hold or are about to hold a connection."""
        return [address for address, _ in self.live.values()] + list(self.dialling.values())

    def went_up(self, index: int, address: EdgeAddress, connection: ConnectorConnection) -> None:
        """A connection is registered."""
        self.live[index] = (address, connection)
        self.spread.succeeded(address)
        self.registered.set()
        self._note_change()

    def went_down(self, index: int) -> None:
        """A registered connection is gone, or about to go."""
        self.live.pop(index, None)
        if not self.live:
            self.registered.clear()
        self._note_change()

    def next_change(self) -> Coroutine[Any, Any, object]:
        """Ends once a connection has come or gone since this call, not only since somebody awaits it."""
        return self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
