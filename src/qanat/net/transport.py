"""What carries bytes and what hears of them: asyncio's `Transport` and `Protocol` by shape instead of by inheritance.

Layers and streams are both without deriving from either, as uvloop's transports are: a class that inherits from an
interpreted one cannot be compiled to a native one (docs/decisions/0022).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast


class Transport(Protocol):
    """What may be written to. Every `asyncio.Transport` is one, and every transport of uvloop's.

    One thing those of uvloop do otherwise: a `pause_reading` inside `connection_made` is forgotten when reading starts
    right after it, so pause by `call_soon`.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool: ...

    def get_write_buffer_size(self) -> int: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

    def set_protocol(self, protocol: Any) -> None: ...

    def get_protocol(self) -> Any: ...


class Receiver(Protocol):
    """Who hears of a transport. Every `asyncio.Protocol` is one; who derives from this need not hear everything."""

    def connection_made(self, transport: Any) -> None:
        return

    def connection_lost(self, exc: Exception | None) -> None:
        return

    def data_received(self, data: bytes) -> None:
        return

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        return

    def resume_writing(self) -> None:
        return


def as_protocol(receiver: Receiver) -> asyncio.Protocol:
    """A receiver for `create_connection` and its like, which want asyncio's own type."""
    return cast(asyncio.Protocol, receiver)
