"""TLS as a layer: ciphertext below, plaintext above.

Our own pump, because asyncio's and uvloop's read 256 KB at a time and pay several times more per record. A handshake
that fails still delivers its alert before the connection closes.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import mypyc_attr

from qanat.net.alarm import Alarm, call_in
from qanat.net.errors import TLSFailed, TLSTruncated
from qanat.net.layer import Layer
from qanat.net.tls_alerts import reason_of
from qanat.net.tls_engine import HEADER_SIZE, TLSEngine, end_of_record
from qanat.net.transport import Receiver, Transport

GATHER: Final = 64 * 1024
"""Bytes written above that are encrypted and sent at once; fewer wait for the end of the loop's turn."""
HANDSHAKE_TIMEOUT: Final = 10.0
MAX_HELLO: Final = 64 * 1024
"""Bytes a peer may send while its handshake waits for its turn."""


class HandshakeGate:
    """Bounds how many handshakes run at once, because each costs the loop about a millisecond.

    Those beyond `limit` wait their turn; those beyond `waiting` more are turned away.
    """

    def __init__(self, limit: int = 128, waiting: int = 1024) -> None:
        self._free, self._max_waiting = limit, waiting
        self._waiting: deque[Callable[[], None]] = deque()
        self._starting = False

    def enter(self, start: Callable[[], None]) -> bool:
        """Call `start` now or when a place is free; False, and never, when too many wait already."""
        if self._free:
            self._free -= 1
            start()
        elif len(self._waiting) < self._max_waiting:
            self._waiting.append(start)
        else:
            return False
        return True

    def forget(self, start: Callable[[], None]) -> bool:
        """Take a waiting `start` out again. False when it has run already: then `leave` is due."""
        try:
            self._waiting.remove(start)
        except ValueError:
            return False
        return True

    def leave(self) -> None:
        """A handshake is over: the next one may start."""
        self._free += 1
        if self._starting:
            return  # by one that is over as soon as it starts, of which there may be a thousand in a row
        self._starting = True
        try:
            while self._free and self._waiting:
                self._free -= 1
                self._waiting.popleft()()
        finally:
            self._starting = False


class _Turn:
    """Sessions with something to send once this turn of the loop is over: one callback of the loop for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._sessions: deque[TLSLayer] = deque()

    def add(self, session: TLSLayer) -> None:
        if not self._sessions:
            self.loop.call_soon(self._end)
        self._sessions.append(session)

    def _end(self) -> None:
        try:
            while self._sessions:
                self._sessions.popleft().end_turn()
        finally:
            if self._sessions:  # one that fails takes no other with it
                self.loop.call_soon(self._end)


_of_thread: Final = threading.local()


def _turn_of(loop: asyncio.AbstractEventLoop) -> _Turn:
    turn: _Turn | None = getattr(_of_thread, "turn", None)
    if turn is None or turn.loop is not loop:
        turn = _of_thread.turn = _Turn(loop)
    return turn


@mypyc_attr(allow_interpreted_subclasses=True)
class TLSLayer(Layer):
    """One end of a TLS session; use `TLSServer` or `TLSClient`.

    The protocol above hears `connection_made` after the handshake. If that fails, `on_failure` is called once with a
    `TLSFailed` or `TLSTruncated` instead and the connection is closed. `verify` runs right after the handshake and
    refuses the peer by raising `TLSFailed`.
    """

    __slots__ = (
        "_closing",
        "_engine",
        "_failure",
        "_flush_scheduled",
        "_gate",
        "_gate_entered",
        "_gate_waiting",
        "_handshake_timeout",
        "_handshaking",
        "_loop",
        "_on_failure",
        "_paused",
        "_peer_closed",
        "_plain",
        "_plain_size",
        "_pumping",
        "_through",
        "_timer",
        "_turn",
        "_unread",
        "_verify",
        "tls",
    )

    def __init__(
        self,
        above: Receiver,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        verify: Callable[[ssl.SSLObject], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        gate: HandshakeGate | None = None,
    ) -> None:
        super().__init__(above)
        self._engine = TLSEngine(context, server_side, server_hostname)
        self.tls = self._engine.tls
        self._verify, self._on_failure = verify, on_failure
        self._handshake_timeout, self._gate = handshake_timeout, gate
        self._gate_entered = self._gate_waiting = False
        self._handshaking, self._closing, self._peer_closed = True, False, False
        self._paused = self._pumping = self._flush_scheduled = self._through = False
        self._unread = b""
        """Ciphertext: while we may not read, and the beginning of a record."""
        self._plain: list[bytes] = []
        self._plain_size = 0
        self._failure: Exception | None = None
        self._timer: Alarm | None = None

    # Called by the transport below.

    def connection_made(self, transport: Transport) -> None:
        self.below = transport
        self._loop = asyncio.get_running_loop()
        self._turn = _turn_of(self._loop)
        self._timer = call_in(self._handshake_timeout, self._handshake_timed_out)
        if self._gate is None:
            self._step_handshake()
            return
        self._gate_waiting = True
        if not self._gate.enter(self._enter_gate):
            self._gate_waiting = False
            self._fail(TLSFailed("too many handshakes at once"))

    def _enter_gate(self) -> None:
        self._gate_waiting, self._gate_entered = False, True
        self._step_handshake()

    def data_received(self, ciphertext: bytes) -> None:
        if self._closing:
            return
        if self._unread:
            ciphertext = self._unread + ciphertext
        self._unread = ciphertext
        if not self._handshaking:
            self._pump()
        elif not self._gate_waiting:
            self._step_handshake()
        elif len(ciphertext) > MAX_HELLO:
            self._fail(TLSFailed("too much sent before the handshake"))

    def eof_received(self) -> bool | None:
        if not self._peer_closed and self._failure is None:
            self._failure = TLSTruncated()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_handshake()
        if exc is None and not self._peer_closed and not self._closing:
            exc = TLSTruncated()
        self._closing = True
        super().connection_lost(self._failure or exc)

    def lost_early(self, exc: Exception | None) -> None:
        if self._on_failure is not None:
            self._on_failure(exc or TLSFailed("closed before the handshake was done"))

    # Called by the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        # What one turn of the loop writes becomes one record: a head and its body cost half of what two would.
        self._plain.append(data if type(data) is bytes else bytes(data))
        self._plain_size += len(data)
        if self._plain_size >= GATHER:
            self._flush()  # now: a socket may feed us megabytes in one turn, and must hear when it is too much
        elif self._pumping or self._flush_scheduled:
            return
        elif self._through:
            self._flush()
        else:
            self._flush_scheduled = True
            self._turn.add(self)

    def write_through(self) -> None:
        self._through = True

    def write_eof(self) -> None:
        """Send `close_notify` and go on reading; only the end of our direction."""
        if not self._closing:
            self._send_close_notify()

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._handshaking:
            self._send_close_notify()
        self.below.close()

    def abort(self) -> None:
        self._closing = True
        self.below.abort()

    def is_closing(self) -> bool:
        return self._closing or self.below.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        self.below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self.below.resume_reading()
            self._loop.call_soon(self._pump)  # records that were already here when reading stopped

    def is_reading(self) -> bool:
        return not self._paused

    def get_write_buffer_size(self) -> int:
        return self.below.get_write_buffer_size() + len(self._engine.sealed) + self._plain_size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self.tls
        if name == "alpn_protocol":
            return self.tls.selected_alpn_protocol() or default
        if name == "peercert_der":
            return self.tls.getpeercert(binary_form=True) or default
        return super().get_extra_info(name, default)

    # The pump.

    def _step_handshake(self) -> None:
        if not self._handshaking or self._closing:
            return
        received, self._unread = self._unread, b""
        try:
            rest = self._engine.handshake(received)
            if rest is None:
                self._flush()
                return
            if self._verify is not None:
                self._verify(self.tls)
        except ssl.SSLError as error:
            self._fail(TLSFailed(*reason_of(error)))
            return
        except TLSFailed as error:
            self._fail(error)
            return
        self._handshaking, self._unread = False, rest
        self._on_failure = self._verify = None  # an idle session need not hold what only a handshake asks for
        self._end_handshake()
        self._flush()
        self._make_above()
        self._pump()

    def _end_handshake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gate is None:
            return
        if self._gate_waiting:
            self._gate_waiting = not self._gate.forget(self._enter_gate)
        elif self._gate_entered:
            self._gate_entered = False
            self._gate.leave()

    def _handshake_timed_out(self) -> None:
        self._timer = None
        self._fail(TLSFailed("handshake timed out"))

    def _pump(self) -> None:
        if self._handshaking or self._peer_closed or not self._unread:
            return
        if self._pumping:  # handed over from within: what came before goes first
            self._loop.call_soon(self._pump)
            return
        self._pumping = True
        data, self._unread = self._unread, b""
        position, size, engine = 0, len(data), self._engine
        record: bytes | memoryview
        try:
            while position < size and not self._paused and not self._closing:
                if size > HEADER_SIZE and data[3] << 8 | data[4] == size - HEADER_SIZE:
                    record, position = data, size  # the common case: one record, all of it
                elif end := end_of_record(data, position):
                    record, position = memoryview(data)[position:end], end
                else:
                    break
                plaintext = engine.open(record)
                if plaintext:
                    self.above.data_received(plaintext)
                elif plaintext is not None:
                    self._hear_close_notify()
                    break
        except ssl.SSLError as error:
            self._fail(TLSFailed(*reason_of(error)))
        finally:
            self._pumping = False
            if position < size:
                self._unread = data[position:] + self._unread
            self._flush()

    def _hear_close_notify(self) -> None:
        self._peer_closed = True
        if not self.above.eof_received():
            self.close()

    def _send_close_notify(self) -> None:
        self._encrypt()
        self._engine.end()
        self._flush()

    def _encrypt(self) -> None:
        plain, self._plain, self._plain_size = self._plain, [], 0
        try:
            if plain:
                self._engine.seal(plain[0] if len(plain) == 1 else b"".join(plain))
        except ssl.SSLError as error:
            self._fail(TLSFailed(*reason_of(error)))

    def end_turn(self) -> None:
        """Send what was written in this turn of the loop."""
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._plain:
            self._encrypt()
        engine = self._engine
        if engine.sealed:
            sealed, engine.sealed = engine.sealed, b""
            if not self.below.is_closing():
                self.below.write(sealed)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._flush()  # the alert that explains it
        self._closing = True
        self._end_handshake()
        if isinstance(self.below, Layer):
            self.below.close_because(error)
        else:
            self.below.close()


@mypyc_attr(allow_interpreted_subclasses=True)
class TLSServer(TLSLayer):
    """The accepting end: the edge's outer TLS, the proxy's inner TLS."""

    __slots__ = ()

    def __init__(
        self,
        above: Receiver,
        context: ssl.SSLContext,
        *,
        verify: Callable[[ssl.SSLObject], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        gate: HandshakeGate | None = None,
    ) -> None:
        super().__init__(
            above,
            context,
            server_side=True,
            verify=verify,
            on_failure=on_failure,
            handshake_timeout=handshake_timeout,
            gate=gate,
        )


@mypyc_attr(allow_interpreted_subclasses=True)
class TLSClient(TLSLayer):
    """The dialling end."""

    __slots__ = ()

    def __init__(
        self,
        above: Receiver,
        context: ssl.SSLContext,
        server_hostname: str | None,
        *,
        verify: Callable[[ssl.SSLObject], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        super().__init__(
            above,
            context,
            server_side=False,
            server_hostname=server_hostname,
            verify=verify,
            on_failure=on_failure,
            handshake_timeout=handshake_timeout,
        )
