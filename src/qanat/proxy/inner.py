"""What stands on one WebSocket: inner TLS, then HTTP in the version that TLS has agreed on."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from qanat.errors import ProtocolError
from qanat.logger import get_logger
from qanat.net.alarm import call_in
from qanat.net.errors import TLSFailed
from qanat.net.layer import Layer
from qanat.net.tls import HANDSHAKE_TIMEOUT, HandshakeGate, TLSServer
from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketServer
from qanat.proxy.certificate import SNIObject
from qanat.proxy.inbound import Inbound
from qanat.wire.client_hello import NO_APPLICATION_PROTOCOL, ClientHello, read_client_hello
from qanat.wire.websocket import GOING_AWAY

log = get_logger("qanat.proxy")
OUR_PROTOCOLS = {b"h2", b"http/1.1"}

ChooseInbound = Callable[[str, str | None], Inbound]
"""From the protocol agreed by ALPN and the name asked for (SNI) to the protocol that speaks it."""


class HelloGuard(Receiver):
    """Reads the ClientHello, then hands everything to TLS and is gone."""

    def __init__(self, tls: TLSServer, on_failure: Callable[[Exception], None]) -> None:
        self._tls, self._on_failure = tls, on_failure
        self._seen = b""
        self._done = False

    def connection_made(self, transport: Transport) -> None:
        assert isinstance(transport, Layer)
        self._below = transport
        self._timer = call_in(HANDSHAKE_TIMEOUT, self._timed_out)

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        self._seen += data
        try:
            hello = read_client_hello(self._seen)
        except ProtocolError:
            hello = ClientHello()  # TLS has an alert for it
        if hello is None:
            return
        if hello.protocols and OUR_PROTOCOLS.isdisjoint(hello.protocols):
            self._below.write(NO_APPLICATION_PROTOCOL)
            self._fail("no application protocol")
            return
        self._end()
        self._below.set_protocol(self._tls)
        self._tls.connection_made(self._below)
        self._tls.data_received(self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done:
            self._end()
            self._on_failure(exc or TLSFailed("closed before the handshake was done"))

    def _timed_out(self) -> None:
        self._fail("handshake timed out")

    def _fail(self, reason: str) -> None:
        self._end()
        error = TLSFailed(reason)
        self._on_failure(error)
        self._below.close_because(error)

    def _end(self) -> None:
        self._done = True
        self._timer.cancel()


class InnerSession(Receiver):
    """One inner TLS session on one WebSocket. `accepted` or `on_failure` tells how the handshake went."""

    def __init__(
        self,
        context: ssl.SSLContext,
        gate: HandshakeGate,
        choose: ChooseInbound,
        on_handshake: Callable[[str], None],
        on_lost: Callable[[InnerSession], None],
    ) -> None:
        self._choose, self._on_handshake, self._on_lost = choose, on_handshake, on_lost
        self.inbound: Inbound | None = None
        tls = TLSServer(self, context, gate=gate, on_failure=self._handshake_failed)
        self.websocket = WebSocketServer(HelloGuard(tls, self._handshake_failed))

    def connection_made(self, transport: Transport) -> None:
        session: ssl.SSLObject = transport.get_extra_info("ssl_object")
        sni = session.sni if isinstance(session, SNIObject) else None
        self._on_handshake("ok")
        log.debug("tls session accepted", sni=sni, version=session.version(), alpn=session.selected_alpn_protocol())
        self.inbound = self._choose(session.selected_alpn_protocol() or "http/1.1", sni)
        self.inbound.on_lost = self._lost
        transport.set_protocol(self.inbound)
        self.inbound.connection_made(transport)

    def drain(self) -> None:
        """Finish what is going on, then close."""
        self.websocket.farewell = GOING_AWAY
        if self.inbound is not None:
            self.inbound.drain()
        else:
            self.websocket.close()

    def end(self) -> None:
        """Close now."""
        self.websocket.farewell = GOING_AWAY
        if self.inbound is not None:
            self.inbound.transport.close()
        self.websocket.close()

    def _handshake_failed(self, error: Exception) -> None:
        self._on_handshake("failed")
        log.warn("tls handshake failed", error=getattr(error, "reason", None) or str(error))
        self._lost()

    def _lost(self) -> None:
        self._on_lost(self)
