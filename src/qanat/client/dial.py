"""Dialling a server through the edge: TCP, outer TLS, WebSocket upgrade, inner TLS.

The inner session is verified against exactly the CA certificates registered on the tunnel. OpenSSL's own verification
is off for it (a registered CA need not be self-signed, and no intermediate may stand between), ours is not.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from qanat.client.errors import TunnelFailed
from qanat.client.stream import TunnelStream
from qanat.client.upgrade import UpgradeExchange
from qanat.errors import ProtocolError
from qanat.net.dial import dial_tls, start_tls
from qanat.net.errors import TLSFailed, TLSTruncated
from qanat.net.silence import notice_silence
from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketClient
from qanat.pki.judge import judge_server_certificate
from qanat.pki.material import CertificateRefused

Told = Callable[[str], None]
"""Hears of each stretch of the way once it is behind: `edge` (TCP and outer TLS), `connector` (through the tunnel to
the proxy and back), `proxy` (inner TLS)."""
EDGE_SILENCE = 8
"""Seconds without a sign of life from the edge after which a session counts as broken."""


@dataclass(frozen=True)
class Edge:
    """Where the edge listens for clients, and the identity to show there."""

    host: str
    port: int
    context: ssl.SSLContext
    """Outer TLS: our client certificate, and the CA that vouches for the edge."""


def outer_context(
    certificate_file: os.PathLike[str] | str,
    key_file: os.PathLike[str] | str,
    ca_file: os.PathLike[str] | str | None = None,
) -> ssl.SSLContext:
    """TLS 1.3 with a client certificate. Without `ca_file` the edge's certificate must chain to a system root."""
    for file in (certificate_file, key_file, *(() if ca_file is None else (ca_file,))):
        Path(file).open("rb").close()  # says which one cannot be read: ssl does not
    context = ssl.create_default_context(cafile=None if ca_file is None else os.fspath(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(os.fspath(certificate_file), os.fspath(key_file))
    return context


def inner_context() -> ssl.SSLContext:
    """Inner TLS without OpenSSL's verification: `dial` judges the certificate itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def unheard(_: str) -> None:
    """Nobody listens."""


async def dial(
    edge: Edge, host: str, anchors: Sequence[x509.Certificate], timeout: float, told: Told = unheard
) -> TunnelStream:
    """A byte stream to the server `host`, inside inner TLS. Raises `TunnelFailed` within `timeout` seconds."""
    stream = TunnelStream()
    await dial_transport(edge, host, anchors, timeout, stream.receiver, told)
    return stream


async def dial_transport(
    edge: Edge,
    host: str,
    anchors: Sequence[x509.Certificate],
    timeout: float,
    above: Receiver,
    told: Told = unheard,
) -> Transport:
    """The same, pushed: `above` has had `connection_made` with the transport when this returns."""
    if not anchors:
        raise TunnelFailed("no_trusted_certificate", "proxy", "no CA certificate is registered on the tunnel")
    try:
        async with asyncio.timeout(timeout):
            websocket = await _dial_websocket(edge, host, timeout, told)
            transport = await _start_inner(websocket, host, anchors, timeout, above)
            told("proxy")
            return transport
    except TimeoutError:
        raise TunnelFailed("connect_timeout", "edge", "connecting took too long", may_retry=True) from None


async def ask_edge(edge: Edge, host: str, timeout: float) -> None:
    """The first half of a dial, up to the edge's answer. Raises `TunnelFailed`."""
    try:
        async with asyncio.timeout(timeout):
            websocket = await _dial_websocket(edge, host, timeout, unheard)
    except TimeoutError:
        raise TunnelFailed("connect_timeout", "edge", "connecting took too long", may_retry=True) from None
    websocket.abort()


def tunnel_domain(host: str) -> str:
    """The tunnel's domain: `host` without its route. The name of outer TLS, for two reasons: the edge's certificate is
    a wildcard of one label over all tunnel domains, and nobody on the way learns which routes exist."""
    return host.partition(".")[2]


async def _dial_websocket(edge: Edge, host: str, timeout: float, told: Told) -> WebSocketClient:
    upgrade = _Upgrade(host)
    try:
        outer = await dial_tls(edge.host, edge.port, upgrade, edge.context, tunnel_domain(host), timeout=timeout)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TunnelFailed("edge_unreachable", "edge", f"cannot reach the edge: {reason}", may_retry=True) from error
    except (TLSFailed, TLSTruncated) as error:
        hop = "client" if isinstance(error, TLSFailed) and error.by_peer else "edge"
        raise TunnelFailed("outer_tls_failed", hop, f"outer {error}") from error
    notice_silence(outer, EDGE_SILENCE)
    told("edge")
    try:
        websocket = await upgrade.websocket
    except BaseException:
        outer.abort()
        raise
    told("connector")
    return websocket


async def _start_inner(
    websocket: WebSocketClient,
    host: str,
    anchors: Sequence[x509.Certificate],
    timeout: float,
    above: Receiver,
) -> Transport:
    refusals: list[CertificateRefused] = []

    def verify(tls: ssl.SSLObject) -> None:
        try:
            _judge(tls, host, anchors)
        except CertificateRefused as refusal:
            refusals.append(refusal)
            raise TLSFailed(refusal.reason) from refusal

    def below(layer: Receiver) -> None:
        websocket.set_protocol(layer)
        layer.connection_made(websocket)
        websocket.resume_reading()

    try:
        return await start_tls(below, above, inner_context(), host, timeout=timeout, verify=verify)
    except (TLSFailed, TLSTruncated, OSError, ProtocolError) as error:
        if refusals:
            raise TunnelFailed("server_certificate_refused", "proxy", refusals[0].reason) from error
        raise TunnelFailed("inner_tls_failed", "proxy", f"inner {error}") from error
    except BaseException:
        websocket.abort()
        raise


def _judge(tls: ssl.SSLObject, host: str, anchors: Sequence[x509.Certificate]) -> None:
    judge_server_certificate(_leaf(tls), anchors, host, datetime.now(UTC))


def _leaf(tls: ssl.SSLObject) -> x509.Certificate:
    der = tls.getpeercert(binary_form=True)
    if der is None:
        raise CertificateRefused("the server showed no certificate")
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise CertificateRefused("the server certificate cannot be read") from None


class _Upgrade(Receiver):
    """Above outer TLS until the edge has switched protocols; then a WebSocket takes its place."""

    def __init__(self, host: str) -> None:
        self._exchange = UpgradeExchange(host, os.urandom(16))
        self.websocket: asyncio.Future[WebSocketClient] = asyncio.get_running_loop().create_future()
        # A dial that fails earlier never looks at it.
        self.websocket.add_done_callback(lambda future: future.cancelled() or future.exception())

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        transport.write(self._exchange.data_to_send())

    def data_received(self, data: bytes) -> None:
        try:
            self._exchange.receive_data(data)
        except (TunnelFailed, ProtocolError) as error:
            self._fail(error)
            return
        for event in self._exchange.events_received():
            self._hand_over(event.rest)

    def eof_received(self) -> bool | None:
        try:
            self._exchange.receive_eof()
        except (TunnelFailed, ProtocolError) as error:
            self._fail(error)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()

    def _hand_over(self, rest: bytes) -> None:
        websocket = WebSocketClient(asyncio.Protocol())
        transport = self._transport
        transport.set_protocol(websocket)
        websocket.connection_made(transport)
        # The proxy waits for our ClientHello, so nothing can arrive before inner TLS listens; pausing makes sure.
        websocket.pause_reading()
        if rest:
            websocket.data_received(rest)
        if not self.websocket.done():
            self.websocket.set_result(websocket)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, ProtocolError):
            error = TunnelFailed("bad_edge_answer", "edge", f"the edge's answer is malformed: {error}")
        if not self.websocket.done():
            self.websocket.set_exception(error)
        self._transport.abort()
