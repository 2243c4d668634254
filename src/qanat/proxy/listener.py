"""The outer door: a plain HTTP request to become a WebSocket, from a connector on the same host.

Its Host, path and headers mean nothing here, because connectors rewrite them. Health is answered too, and says nothing
more than yes or no: the same port can be reached through the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from qanat.errors import ProtocolError
from qanat.net.http1 import Framing, RequestReceived
from qanat.net.http1_fields import Fields, Header, Headers, encode_head, tokens, values
from qanat.net.transport import Receiver, Transport
from qanat.proxy.errors import BadRequest, Draining, Overloaded, ProxyError, Reply, UpgradeRequired, to_reply
from qanat.proxy.plain import PlainConnection, text_reply
from qanat.tunnel.connection import IncomingStream, ResponseHead, StreamKind
from qanat.wire.websocket import accept_key

if TYPE_CHECKING:
    from qanat.proxy.proxy import Proxy


class OuterConnection(PlainConnection):
    """One connection to the listener."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(lambda request: answer_plainly(proxy, request))
        self._proxy = proxy

    def hear(self, request: RequestReceived) -> None:
        if not wants_upgrade(request.headers):
            super().hear(request)
            return
        try:
            check_upgrade(request)
            self._proxy.check_capacity()
        except ProxyError as error:
            self.reply(upgrade_refusal(error, self._proxy.forwarder.new_id()))
            return
        self._upgrade(request)

    def _upgrade(self, request: RequestReceived) -> None:
        key = values(request.headers, b"sec-websocket-key")[0].decode("latin-1")
        offered = tokens_as_written(request.headers, b"sec-websocket-protocol")
        self.transport.write(
            encode_head(b"HTTP/1.1 101 Switching Protocols", self._proxy.upgrade_headers(key, offered))
        )
        protocol = self._proxy.accept_stream()
        rest = self._reader.take_rest()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if rest:
            protocol.data_received(rest)


def answer_plainly(proxy: Proxy, request: RequestReceived) -> Reply:
    """What a request without an upgrade gets."""
    path = request.target.partition(b"?")[0]
    if request.method in (b"GET", b"HEAD"):
        if path == b"/healthz":
            return text_reply(200, "ok\n")
        if path == b"/readyz":
            return text_reply(200, "ok\n") if proxy.ready else text_reply(503, "not ready\n")
    return upgrade_refusal(UpgradeRequired(), proxy.forwarder.new_id())


def upgrade_refusal(error: ProxyError, request_id: str) -> Reply:
    """The answer to a request that does not become a WebSocket."""
    reply = to_reply(error, request_id)
    extra: tuple[Header, ...] = ()
    if error.status == 426:
        extra = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Version", b"13"))
    return Reply(reply.status, (*reply.headers, *extra), reply.body, reply.error_type)


def wants_upgrade(headers: Headers) -> bool:
    """Whether a request asks to become a WebSocket."""
    return b"websocket" in tokens(headers, b"upgrade") and b"upgrade" in tokens(headers, b"connection")


def check_upgrade(request: RequestReceived) -> None:
    """RFC 6455 section 4.2.1. Raises `BadRequest` and `UpgradeRequired`."""
    if values(request.headers, b"sec-websocket-version") != [b"13"]:
        raise UpgradeRequired("WebSocket version other than 13")
    keys = values(request.headers, b"sec-websocket-key")
    if request.method != b"GET" or len(keys) != 1 or len(keys[0]) != 24:
        raise BadRequest("malformed WebSocket handshake")


def tokens_as_written(headers: Headers, name: bytes) -> list[str]:
    """The members of a comma-separated field, as they were written."""
    members = b",".join(values(headers, name)).split(b",")
    return [text for member in members if (text := member.strip(b" \t").decode("latin-1"))]


class _StreamAnswer(Receiver):
    """Answers a stream that is no WebSocket."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def connection_made(self, transport: Transport) -> None:
        stream = cast(IncomingStream, transport)
        headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in self._reply.headers)
        stream.respond(ResponseHead(self._reply.status, headers))
        if stream.head.method != "HEAD":
            stream.write(self._reply.body)
        stream.close()


class StreamDoor:
    """The same door for streams that a connector in this process hands over: a `StreamHandler`."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def handle_stream(self, stream: IncomingStream) -> Receiver:
        """The protocol for one tunnel stream."""
        proxy = self._proxy
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in stream.head.headers]
        if stream.head.kind is not StreamKind.WEBSOCKET:
            return _StreamAnswer(_plain(proxy, stream, headers))
        try:
            proxy.check_capacity()
        except (Draining, Overloaded) as error:
            return _StreamAnswer(to_reply(error, proxy.forwarder.new_id()))
        keys = values(headers, b"sec-websocket-key")
        offered = tokens_as_written(tuple(headers), b"sec-websocket-protocol")
        answer = proxy.upgrade_headers(keys[0].decode("latin-1") if keys else None, offered)
        stream.respond(ResponseHead(101, tuple((n.decode("ascii"), v.decode("latin-1")) for n, v in answer)))
        return proxy.accept_stream()


def _plain(proxy: Proxy, stream: IncomingStream, headers: Iterable[Header]) -> Reply:
    head = stream.head
    try:
        request = RequestReceived(
            head.method.encode("ascii"), head.path.encode("latin-1"), b"1.1", Fields(headers), Framing.NONE
        )
    except UnicodeEncodeError as error:
        raise ProtocolError("request head is not latin-1") from error
    return answer_plainly(proxy, request)


def upgrade_answer(key: str | None, subprotocol: str | None) -> tuple[Header, ...]:
    """The header lines of a 101. Extensions are never agreed to: ciphertext does not compress."""
    lines: list[Header] = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    if key is not None:
        lines.append((b"Sec-WebSocket-Accept", accept_key(key).encode("ascii")))
    if subprotocol is not None:
        lines.append((b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
    return tuple(lines)
