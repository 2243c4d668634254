"""A layer: a `Receiver` to what lies below, a `Transport` to what lies above.

Stack layers by handing each the next one up: `WebSocketServer(TLSServer(HTTPForwarder()))`, then give the outermost
to a loop or to any transport. Back-pressure is `pause_reading` passed down and `pause_writing` passed up the stack.
"""

from __future__ import annotations

from typing import Any, Final

from mypy_extensions import mypyc_attr

from qanat.net.transport import Receiver, Transport

HIGH_WATER: Final = 256 * 1024
"""Bytes queued towards a slow reader at which its feeder is stopped."""
LOW_WATER: Final = 128 * 1024
"""Bytes queued at which a stopped feeder goes on."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Layer:
    """Passes everything through. A layer overrides what it changes.

    `connection_made` of the protocol above is called once the layer is ready for it, which may be later than the
    layer's own; `connection_lost` exactly once, and only if `connection_made` was, unless `lost_early` says otherwise.
    """

    __slots__ = ("_above_lost", "_above_made", "above", "below")
    below: Transport

    def __init__(self, above: Receiver) -> None:
        self.above = above
        self._above_made = False
        self._above_lost = False

    # Called by the transport below.

    def connection_made(self, transport: Transport) -> None:
        self.below = transport
        self._make_above()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose_above(exc)

    def data_received(self, data: bytes) -> None:
        self.above.data_received(data)

    def eof_received(self) -> bool | None:
        return self.above.eof_received()

    def pause_writing(self) -> None:
        if self._above_made and not self._above_lost:
            self.above.pause_writing()

    def resume_writing(self) -> None:
        if self._above_made and not self._above_lost:
            self.above.resume_writing()

    # Called by the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.below.write(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_through(self) -> None:
        """From now on send each write at once: the protocol above gathers what one turn of the loop has to say."""
        if isinstance(self.below, Layer):
            self.below.write_through()

    def write_eof(self) -> None:
        self.below.write_eof()

    def can_write_eof(self) -> bool:
        return self.below.can_write_eof()

    def close(self) -> None:
        self.below.close()

    def close_because(self, error: Exception) -> None:
        """Close because the layer above has failed; a layer that can say so to its peer does."""
        self.close()

    def abort(self) -> None:
        self.below.abort()

    def is_closing(self) -> bool:
        return self.below.is_closing()

    def pause_reading(self) -> None:
        self.below.pause_reading()

    def resume_reading(self) -> None:
        self.below.resume_reading()

    def is_reading(self) -> bool:
        return self.below.is_reading()

    def get_write_buffer_size(self) -> int:
        return self.below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.below.get_extra_info(name, default)

    def set_protocol(self, protocol: Receiver) -> None:
        self.above = protocol

    def get_protocol(self) -> Receiver:
        return self.above

    # For subclasses.

    def _make_above(self) -> None:
        """Tell the protocol above that it may begin."""
        self._above_made = True
        self.above.connection_made(self)

    def _lose_above(self, exc: Exception | None) -> None:
        """Tell the protocol above, once, that it is over."""
        if self._above_lost:
            return
        self._above_lost = True
        if self._above_made:
            self.above.connection_lost(exc)
        else:
            self.lost_early(exc)

    def lost_early(self, exc: Exception | None) -> None:
        """The connection ended before the layer was ready for the protocol above: a failed handshake."""
        return
