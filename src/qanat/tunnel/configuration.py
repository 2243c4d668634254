"""Configuration that an edge pushes to a connector, as JSON on a stream of its own.

Stock connectors run by token take their ingress rules this way. Ours declines: where its requests go is the business
of whoever runs it, and not of the edge.
"""

from __future__ import annotations

import asyncio
import json

from qanat.errors import ProtocolError
from qanat.tunnel.connection import StreamProtocol
from qanat.wire.registration import ConfigurationResult

MAX_ANSWER_SIZE = 64 * 1024


class Answer(StreamProtocol):
    """Collects the answer to a push: `body` is done when the stream has ended cleanly, and fails otherwise."""

    def __init__(self) -> None:
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_ANSWER_SIZE:
            self._fail(ProtocolError("the answer to a pushed configuration is too large"))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._fail(exc)
        elif not self.body.done():
            self.body.set_result(bytes(self._received))

    def _fail(self, exc: Exception) -> None:
        if not self.body.done():
            self.body.set_exception(exc)
            self.body.exception()  # whoever pushed may have stopped waiting


def encode_configuration_result(result: ConfigurationResult) -> bytes:
    """The JSON by which a connector answers."""
    return json.dumps({"lastAppliedVersion": result.latest_applied_version, "err": result.error or None}).encode()


def parse_configuration_result(body: bytes) -> ConfigurationResult:
    """What a connector answered. Raises `ProtocolError`."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(version := fields.get("lastAppliedVersion"), int):
        raise ProtocolError("the answer to a pushed configuration is malformed")
    return ConfigurationResult(version, str(fields.get("err") or ""))
