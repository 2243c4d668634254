"""WebSocket as a layer: frames below, a byte stream above. The handshake has already happened.

The inner TLS session travels in here. Pings keep idle paths open (many networks drop a silent socket near 100 s), and
a peer from which nothing at all arrived after `MAX_UNHEARD` of them is taken for gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import mypyc_attr

from qanat.net.alarm import Alarm, call_in
from qanat.net.errors import WebSocketClosed
from qanat.net.layer import Layer
from qanat.net.transport import Receiver, Transport
from qanat.wire.errors import WebSocketViolation
from qanat.wire.websocket import (
    ABNORMAL,
    GOING_AWAY,
    NORMAL,
    PROTOCOL_ERROR,
    CloseReceived,
    PayloadReceived,
    PingReceived,
    WebSocketCodec,
)

PING_EVERY = 30.0
MAX_UNHEARD: Final = 3
"""Counted, because time also passes while this loop stands still, and a peer has answered that nobody has heard."""
CLOSE_TIMEOUT = 2.0
"""Seconds the peer has to answer our Close."""
GOING_AWAY_NOTICE: Final = b"qanat-going-away"
"""Payload of a Ping by which an edge that drains asks for no more on this session; others merely answer it."""


@mypyc_attr(allow_interpreted_subclasses=True)
class WebSocketLayer(Layer):
    """One end of a WebSocket; use `WebSocketServer` or `WebSocketClient`."""

    def __init__(self, above: Receiver, codec: WebSocketCodec) -> None:
        super().__init__(above)
        self.farewell = NORMAL
        """The code of a Close that nothing special is the matter with."""
        self.going_away = False
        """The edge asked us to finish what is running and to dial again."""
        self.on_going_away: Callable[[], None] = _nothing
        """Called when it does."""
        self._codec = codec
        self._closing = False
        self._close_seen = False
        self._full = False
        self._failure: Exception | None = None
        self._unheard = 0
        self._timer: Alarm | None = None

    def connection_made(self, transport: Transport) -> None:
        self._timer = call_in(PING_EVERY, self._keep_alive)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._unheard = 0
        codec = self._codec
        try:
            codec.receive_data(data)
        except WebSocketViolation as violation:
            self._hear_events()
            self._fail(violation)
            return
        self._hear_events()
        # Pongs. A peer that pings and never reads must not fill our memory: it gets none while it is behind.
        if (outgoing := codec.data_to_send()) and not self._full:
            self.below.write(outgoing)

    def pause_writing(self) -> None:
        self._full = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        super().resume_writing()

    def _hear_events(self) -> None:
        for event in self._codec.events_received():
            if isinstance(event, PayloadReceived):
                if not self._closing:
                    self.above.data_received(event.data)
            elif isinstance(event, CloseReceived):
                self._hear_close(event)
            elif isinstance(event, PingReceived) and event.payload == GOING_AWAY_NOTICE:
                self.going_away = True
                self.on_going_away()

    def _hear_close(self, event: CloseReceived) -> None:
        self._close_seen = True
        if not self._closing:
            if event.close_code not in (NORMAL, GOING_AWAY, 1005):
                self._failure = WebSocketClosed(event.close_code, event.reason)
            self.above.eof_received()
            if not self._closing:  # the protocol above may have closed meanwhile, and so sent our Close
                self._send_close(NORMAL, "")
        self._close_below()

    def eof_received(self) -> bool | None:
        if not self._close_seen:
            self._failure = self._failure or WebSocketClosed(ABNORMAL)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        lost = self._failure or exc
        if not self._close_seen and not self._closing:
            self._failure = self._failure or WebSocketClosed(ABNORMAL)
        super().connection_lost(lost or self._failure)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self._codec.send_payload(data)
        self.below.write(self._codec.data_to_send())

    def write_eof(self) -> None:
        raise NotImplementedError("a WebSocket has no half-close")

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.close_with(self.farewell)

    def close_because(self, error: Exception) -> None:
        self.close_with(PROTOCOL_ERROR)

    def close_with(self, close_code: int, reason: str = "") -> None:
        """End with a Close frame. The reason is short, ASCII and free of names and addresses."""
        if self._closing:
            return
        self._send_close(close_code, reason)
        self._abort_later()

    def is_closing(self) -> bool:
        return self._closing or self.below.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Also `going_away`, `websocket` (this), and `websocket_failure`: how it ended, when not as it should."""
        if name == "websocket":
            return self
        if name == "going_away":
            return self.going_away
        return self._failure if name == "websocket_failure" else super().get_extra_info(name, default)

    def _send_close(self, close_code: int, reason: str) -> None:
        self._closing = True
        self._codec.send_close(close_code, reason)
        self.below.write(self._codec.data_to_send())
        self.below.resume_reading()  # or the peer's Close would never be seen

    def _fail(self, violation: WebSocketViolation) -> None:
        self._failure = violation
        if not self._closing:
            self._send_close(violation.close_code, "")
        self._close_below()

    def _close_below(self) -> None:
        """Close once all is sent, or soon anyway: a peer that does not read would keep the connection for ever."""
        self._abort_later()
        self.below.close()

    def _abort_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = call_in(CLOSE_TIMEOUT, self.below.abort)

    def _keep_alive(self) -> None:
        if self.below.is_reading():  # else what it says waits below
            self._unheard += 1
        if self._unheard > MAX_UNHEARD:
            self._failure = WebSocketClosed(ABNORMAL, "nothing heard from the peer")
            self.below.abort()
            return
        if not self._full:
            self._codec.send_ping()
            self.below.write(self._codec.data_to_send())
        self._timer = call_in(PING_EVERY, self._keep_alive)


def _nothing() -> None:
    pass


@mypyc_attr(allow_interpreted_subclasses=True)
class WebSocketServer(WebSocketLayer):
    """The end that was asked for the upgrade: the proxy's."""

    def __init__(self, above: Receiver) -> None:
        super().__init__(above, WebSocketCodec())


@mypyc_attr(allow_interpreted_subclasses=True)
class WebSocketClient(WebSocketLayer):
    """The end that asked for the upgrade: the gateway's. Masks what it sends."""

    def __init__(self, above: Receiver) -> None:
        super().__init__(above, WebSocketCodec(lambda: os.urandom(4)))
