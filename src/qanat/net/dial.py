"""Dialling: the one place where a layer's handshake becomes something to await."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from qanat.net.tls import TLSClient
from qanat.net.transport import Receiver, Transport, as_protocol


async def start_tls(
    below: Callable[[Receiver], Any],
    above: Receiver,
    context: ssl.SSLContext,
    server_hostname: str | None,
    *,
    timeout: float,
    verify: Callable[[ssl.SSLObject], None] | None = None,
) -> TLSClient:
    """A client session for `above` over what `below(protocol)` connects; returns once the handshake is done.

    `below` is called with the TLS layer and may be a coroutine function. Raises `TLSFailed`, `TLSTruncated`,
    `OSError` from the dial, or `TimeoutError` after `timeout` seconds; the connection is closed then.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(error: Exception) -> None:
        if not done.done():
            done.set_exception(error)

    layer = TLSClient(
        StandIn(above, done), context, server_hostname, verify=verify, on_failure=fail, handshake_timeout=timeout
    )
    try:
        async with asyncio.timeout(timeout):
            connected = below(layer)
            if asyncio.iscoroutine(connected):
                await connected
            await done
    except BaseException:
        if hasattr(layer, "below"):
            layer.abort()
        raise
    layer.set_protocol(above)
    return layer


async def dial_tls(
    host: str,
    port: int,
    above: Receiver,
    context: ssl.SSLContext,
    server_hostname: str | None,
    *,
    timeout: float,
    verify: Callable[[ssl.SSLObject], None] | None = None,
) -> TLSClient:
    """TCP, then TLS. Errors as for `start_tls`."""
    loop = asyncio.get_running_loop()

    async def connect(protocol: Receiver) -> None:
        await loop.create_connection(lambda: as_protocol(protocol), host, port)

    return await start_tls(connect, above, context, server_hostname, timeout=timeout, verify=verify)


class StandIn(Receiver):
    """Stands in for the protocol above until the handshake is done, and passes everything on."""

    def __init__(self, above: Receiver, done: asyncio.Future[None]) -> None:
        self._above, self._done = above, done

    def connection_made(self, transport: Transport) -> None:
        self._above.connection_made(transport)
        if not self._done.done():
            self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._above.data_received(data)

    def eof_received(self) -> bool | None:
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()
