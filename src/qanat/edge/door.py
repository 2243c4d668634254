"""What happens to a TCP connection before its TLS handshake: counted, checked by address, and told apart.

Nothing is awaited: most connections are handed to TLS in the same call that accepted them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qanat.edge.admission import is_allowed
from qanat.edge.config import Network
from qanat.edge.metrics import Metrics
from qanat.edge.proxy_protocol import ProxiedAddress, parse_proxy_header
from qanat.errors import ProtocolError
from qanat.logger import get_logger
from qanat.net.errors import TLSFailed
from qanat.net.layer import HIGH_WATER, LOW_WATER
from qanat.net.silence import notice_silence
from qanat.net.transport import Receiver, Transport
from qanat.wire.client_hello import read_client_hello

CLIENT_SILENCE = 60
NODE_SILENCE = 8
"""Seconds: between nodes the network is ours, and a cut should not go unnoticed."""

_log = get_logger("qanat.edge")


class Doors:
    """The connections of one listener, from the first byte to the last. `others` are those that come by no door."""

    def __init__(self, listener: str, limit: int, metrics: Metrics, others: Callable[[], int] = lambda: 0) -> None:
        self.listener, self._limit, self._metrics, self._others = listener, limit, metrics, others
        self._open: set[Door] = set()

    @property
    def full(self) -> bool:
        """Whether nobody else may come in."""
        return len(self._open) + self._others() >= self._limit

    def enter(self, door: Door) -> bool:
        """Count a connection; False when there are too many."""
        if self.full:
            return False
        self._open.add(door)
        return True

    def leave(self, door: Door) -> None:
        """It is gone."""
        self._open.discard(door)

    def cut(self, reason: str, address: str, detail: str = "") -> None:
        """Log and count a connection that ends before any request; `reason` is one of few."""
        self._metrics.cut.labels(reason).inc()
        _log.warn("connection refused", listener=self.listener, reason=reason, address=address, detail=detail)

    def ignore(self, reason: str, address: str) -> None:
        """The same, without a loud line, for a datagram: anybody can send a thousand, from any address."""
        self._metrics.cut.labels(reason).inc()
        _log.debug("connection refused", listener=self.listener, reason=reason, address=address)

    def handshake_failed(self, error: Exception, address: str) -> None:
        """The same for a TLS handshake. Who hangs up without a word (a balancer's health check) gets no loud line."""
        if isinstance(error, TLSFailed):
            self.cut("handshake_failed", address, str(error))
        else:
            self._metrics.cut.labels("handshake_abandoned").inc()
            _log.debug("connection closed before its handshake", listener=self.listener, address=address)

    def abort_all(self) -> None:
        """End whatever is still open."""
        for door in list(self._open):
            door.transport.abort()


class Door:
    """One accepted connection. `accept(address, server_name)` gives the protocol that takes over.

    `allowed` None lets every address in; `balancers` None means that nobody writes a PROXY header; with `read_name`
    the ClientHello is read first and its server name passed on.
    """

    transport: Transport

    def __init__(
        self,
        doors: Doors,
        accept: Callable[[str, str], Receiver],
        *,
        allowed: tuple[Network, ...] | None = None,
        balancers: tuple[Network, ...] | None = None,
        read_name: bool = False,
        timeout: float = 10.0,
        silence: int = CLIENT_SILENCE,
    ) -> None:
        self._doors, self._accept, self._silence = doors, accept, silence
        self._allowed, self._balancers, self._read_name = allowed, balancers, read_name
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._data = b""
        self._address = ""
        self._above: Receiver | None = None
        self._address_known = False

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        notice_silence(transport, self._silence)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._doors.enter(self):
            self._cut("too_many_connections")
        elif self._balancers is not None:
            if is_allowed(self._address, self._balancers):
                self._wait()
            else:
                self._cut("address_not_a_balancer")
        elif self._check_address():
            self._go_on()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._cut, "slow_handshake")

    def _check_address(self) -> bool:
        self._address_known = True
        if self._allowed is None or is_allowed(self._address, self._allowed):
            return True
        self._cut("address_not_allowed")
        return False

    def _go_on(self) -> None:
        """The address is good: wait for the server's name, or hand over."""
        if not self._read_name:
            self._hand_over("")
        elif self._timer is None:
            self._wait()

    def data_received(self, data: bytes) -> None:
        if self._above is not None:
            self._above.data_received(data)
            return
        self._data += data
        try:
            if not self._address_known and not self._read_proxy_header():
                return
            if self._read_name and not self.transport.is_closing():
                hello = read_client_hello(self._data)
                if hello is not None:
                    self._hand_over(hello.server_name)
        except ProtocolError as error:
            self._cut(str(error).replace(" ", "_").lower())

    def _read_proxy_header(self) -> bool:
        """Whether the address is known now and may come in."""
        header: ProxiedAddress | None = parse_proxy_header(self._data)
        if header is None:
            return False
        if not header.address:
            self._cut("health_check")
            return False
        self._address, self._data = header.address, self._data[header.size :]
        if not self._check_address():
            return False
        self._go_on()
        return True

    def _hand_over(self, name: str) -> None:
        self._stop_timer()
        above = self._above = self._accept(self._address, name)
        above.connection_made(self.transport)
        data, self._data = self._data, b""
        if data and not self.transport.is_closing():
            above.data_received(data)

    def _cut(self, reason: str) -> None:
        self._stop_timer()
        if reason != "health_check":
            self._doors.cut(reason, self._address)
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def eof_received(self) -> bool | None:
        return None if self._above is None else self._above.eof_received()

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._doors.leave(self)
        if self._above is not None:
            self._above.connection_lost(exc)
