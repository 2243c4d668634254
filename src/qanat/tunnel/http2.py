"""The tunnel over HTTP/2.

The connector dials, then the roles flip: the edge is the HTTP/2 client and the connector serves. The edge opens the
control stream too, marked by a header. `EdgeHTTP2` and `ConnectorHTTP2` are asyncio protocols: hang one on each end
of a TLS transport (`EdgeHTTP2(registrar)`, `ConnectorHTTP2(handler)`, then `await connector.register(request)`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from dataclasses import replace
from typing import ClassVar

from qanat.errors import ProtocolError
from qanat.logger import get_logger
from qanat.net.transport import Transport
from qanat.tunnel.configuration import Answer, encode_configuration_result, parse_configuration_result
from qanat.tunnel.connection import (
    ConnectionUnavailable,
    Headers,
    Registered,
    Registrar,
    RegistrationRequest,
    RequestHead,
    ResponseHead,
    StreamHandler,
    StreamKind,
    StreamProtocol,
)
from qanat.tunnel.control import ConnectorControl, EdgeControl
from qanat.tunnel.http2_link import OUR_SETTINGS, KeepAlive, Link, Stream
from qanat.wire import cloudflared_headers as marks
from qanat.wire.control_stream import RPC_TIMEOUT
from qanat.wire.http2 import ErrorCode, HTTP2Connection, Settings
from qanat.wire.http2 import events as h2
from qanat.wire.registration import ConfigurationResult

STALLED_AFTER = 5.0
"""Seconds without any window for the whole connection after which it gets no new streams."""
MAX_CONFIGURATION_SIZE = 1024 * 1024
MAX_CONTROL_QUEUE = 64 * 1024
"""Bytes of answers on the control stream that the peer may leave unread."""
_CONTROL_HEADERS: Headers = (
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "control-stream"),
    (":path", "/"),
    *marks.marker(marks.MarkedKind.CONTROL),
)
_CONFIGURATION = RequestHead(StreamKind.HTTP, "POST", "update-configuration", "/", has_body=True)
_CONFIGURATION_HEADERS: Headers = (
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "update-configuration"),
    (":path", "/"),
    *marks.marker(marks.MarkedKind.CONFIGURATION),
)
_KINDS = {
    marks.MarkedKind.HTTP: StreamKind.HTTP,
    marks.MarkedKind.WEBSOCKET: StreamKind.WEBSOCKET,
    marks.MarkedKind.TCP: StreamKind.TCP,
}
_MARKERS: dict[StreamKind, Headers] = {
    StreamKind.HTTP: (),
    StreamKind.WEBSOCKET: marks.marker(marks.MarkedKind.WEBSOCKET),
    StreamKind.TCP: marks.marker(marks.MarkedKind.TCP),
}
_log = get_logger("qanat.tunnel")


class EdgeStream(Stream):
    """The edge's end of a request stream."""

    __slots__ = ("_accept", "_protocol_above", "kind")

    def __init__(self, link: Link, stream_id: int, head: RequestHead, protocol: StreamProtocol) -> None:
        super().__init__(link, stream_id)
        self._protocol = self._protocol_above = protocol
        self.kind = head.kind
        key = marks.first_value(head.headers, "sec-websocket-key") if head.kind is StreamKind.WEBSOCKET else None
        self._accept = marks.websocket_accept(key) if key is not None else None

    def end_cleanly(self) -> None:
        if self.kind is StreamKind.HTTP:
            self.link.codec.reset_stream(self.stream_id, ErrorCode.NO_ERROR if self._ended else ErrorCode.CANCEL)
            self.link.forget(self)
        else:
            super().end_cleanly()

    def response_received(self, headers: Headers) -> None:
        """The answer's HTTP/2 headers. Raises `ProtocolError`."""
        self._protocol_above.response_received(self._response_head(headers))

    def trailers_received(self, headers: Headers) -> None:
        """The answer's trailers."""
        self._protocol_above.trailers_received(headers)

    def _response_head(self, headers: Headers) -> ResponseHead:
        status = int(headers[0][1])
        from_upstream, limited = marks.parse_meta(marks.first_value(headers, marks.RESPONSE_META) or "")
        if not from_upstream and self.kind is not StreamKind.TCP:
            return ResponseHead(status, (), from_upstream=False, rate_limited=limited)
        fields = marks.parse_serialised_headers(marks.first_value(headers, marks.RESPONSE_HEADERS) or "")
        if self.kind is StreamKind.WEBSOCKET and status == 200 and self._is_accepted(fields):
            status = 101
        self._accept = None  # there is one answer
        length = marks.first_value(headers, "content-length")
        if length is not None and status != 101 and marks.first_value(fields, "content-length") is None:
            fields = (*fields, ("content-length", length))
        return ResponseHead(status, fields, from_upstream, limited)

    def _is_accepted(self, fields: Headers) -> bool:
        return self._accept is not None and marks.first_value(fields, "sec-websocket-accept") == self._accept


class EdgeHTTP2(Link):
    """The edge's end: an asyncio protocol for a transport that a connector has dialled, and its `EdgeConnection`."""

    request: RegistrationRequest
    registered: Registered

    def __init__(self, registrar: Registrar, protocol: str = "http2", keep_alive: KeepAlive | None = None) -> None:
        super().__init__(HTTP2Connection(client=True, settings=OUR_SETTINGS, capped=True), keep_alive)
        self._registrar, self._protocol_name = registrar, protocol
        self._control: EdgeControl
        self._control_id = 0
        self._draining = self._stalled = False
        self._window_seen = self.loop.time()

    def connection_made(self, transport: Transport) -> None:
        peer = transport.get_extra_info("peername")
        address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else ""
        self._control = EdgeControl(self._registrar, self, address, self._protocol_name, self._write_control)
        self._control_id = self.codec.open_stream(_CONTROL_HEADERS)
        super().connection_made(transport)

    def open_stream(self, head: RequestHead, protocol: StreamProtocol) -> Transport:
        return self._open(head, _request_headers(head), protocol)

    async def push_configuration(self, version: int, config: object) -> ConfigurationResult:
        answer = Answer()
        stream = self._open(_CONFIGURATION, _CONFIGURATION_HEADERS, answer)
        stream.write(json.dumps({"version": version, "config": config}).encode())
        stream.write_eof()
        try:
            async with asyncio.timeout(RPC_TIMEOUT):
                return parse_configuration_result(await answer.body)
        finally:
            stream.close()

    def _open(self, head: RequestHead, headers: Headers, protocol: StreamProtocol) -> EdgeStream:
        if self.available_streams <= 0:
            raise ConnectionUnavailable("the tunnel connection takes no further stream")
        stream_id = self.codec.open_stream(headers, _is_bare(head))
        stream = self.streams[stream_id] = EdgeStream(self, stream_id, head, protocol)
        self.flush_soon()
        protocol.connection_made(stream)
        return stream

    @property
    def available_streams(self) -> int:
        if self._draining or self._closing or self._stalled or not self._control.is_registered:
            return 0
        return self.codec.peer_max_streams - self.codec.open_streams

    @property
    def open_streams(self) -> int:
        return len(self.streams)

    def drain(self) -> None:
        self._draining = True
        if not self.streams:
            self.close()

    async def wait_closed(self) -> None:
        await self.wait_lost()
        await self._control.wait_closed()

    def event_received(self, event: h2.Event) -> None:
        match event:
            case h2.DataReceived(stream_id, data):
                self.codec.acknowledge(stream_id, len(data))
                if stream_id == self._control_id:
                    self._control.data_received(data)
            case h2.ResponseReceived(stream_id, headers) if stream_id == self._control_id:
                if headers[0][1] != "200":
                    raise ProtocolError("the connector refused the control stream")
            case h2.GoAwayReceived():
                self._draining = True
            case h2.StreamReset(stream_id) | h2.StreamEnded(stream_id) if stream_id == self._control_id:
                _log.debug("control stream ended by the connector")

    def stream_event_received(self, stream: Stream, event: h2.Event) -> None:
        assert isinstance(stream, EdgeStream)
        match event:
            case h2.ResponseReceived(_, headers):
                try:
                    stream.response_received(headers)
                except ProtocolError as error:
                    stream.fail(error)
            case h2.TrailersReceived(_, headers):
                stream.trailers_received(headers)

    def stream_forgotten(self) -> None:
        if self._draining and not self.streams:
            self.close()

    def link_lost(self, exc: Exception | None) -> None:
        self._control.lost(exc)

    def pulse(self, now: float) -> None:
        if self.codec.send_window > 0:
            self._window_seen = now
        stalled = now - self._window_seen > STALLED_AFTER
        if stalled and not self._stalled:
            _log.warn("tunnel connection stalled: the connector takes no more bytes", streams=len(self.streams))
        self._stalled = stalled

    def _write_control(self, data: bytes) -> None:
        _write_control(self, self._control_id, data)


class ConnectorStream(Stream):
    """The connector's end of a request stream."""

    __slots__ = ("_responded", "head")
    abort_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR

    def __init__(self, link: Link, stream_id: int, head: RequestHead) -> None:
        super().__init__(link, stream_id)
        self.head = head
        self._responded = False

    def start(self, handler: StreamHandler) -> None:
        """Hand the stream to its handler."""
        self._protocol = handler.handle_stream(self)
        self._protocol.connection_made(self)

    def respond(self, head: ResponseHead) -> None:
        if self._responded or self._closing:
            return
        self._responded = True
        self.link.codec.send_headers(self.stream_id, _response_headers(head))
        self.link.flush_soon()
        if self.head.kind is not StreamKind.HTTP:  # may stay open, idle, for days
            self.head = replace(self.head, headers=())

    def write_trailers(self, trailers: Headers) -> None:
        if not self._closing:
            self.link.codec.end_stream(self.stream_id, marks.trailer_fields(trailers))
            self.link.flush_soon()

    def end_cleanly(self) -> None:
        if self._responded:
            super().end_cleanly()
        else:
            self._reset(self.abort_code)

    def ended_by_peer(self) -> None:
        if self.head.has_body:
            self._protocol.eof_received()
        elif self.head.kind is not StreamKind.HTTP:
            self.close()  # the wire has no half-close: the first end ends both directions


class ConnectorHTTP2(Link):
    """The connector's end: an asyncio protocol for a transport to the edge, and its `ConnectorConnection`.

    `local_configuration` is JSON, reported to an edge that does not manage the tunnel itself.
    """

    def __init__(
        self,
        handler: StreamHandler,
        local_configuration: bytes = b"{}",
        keep_alive: KeepAlive | None = None,
        settings: Settings = OUR_SETTINGS,
    ) -> None:
        super().__init__(HTTP2Connection(client=False, settings=settings), keep_alive)
        self._handler = handler
        self._control = ConnectorControl(self._write_control, local_configuration)
        self._control_id = 0
        self._configurations: dict[int, bytearray] = {}

    async def register(self, request: RegistrationRequest) -> Registered:
        return await self._control.register(request, _mapped(self.transport.get_extra_info("sockname")))

    async def unregister(self) -> None:
        await self._control.unregister()

    @property
    def open_streams(self) -> int:
        return len(self.streams)

    async def wait_closed(self) -> Exception | None:
        return await self.wait_lost()

    def event_received(self, event: h2.Event) -> None:
        match event:
            case h2.RequestReceived(stream_id, headers, is_bare):
                self._accept(stream_id, headers, is_bare)
            case h2.DataReceived(stream_id, data):
                self.codec.acknowledge(stream_id, len(data))
                if stream_id == self._control_id:
                    self._control.data_received(data)
                elif stream_id in self._configurations:
                    self._receive_configuration(stream_id, data)
            case h2.StreamEnded(stream_id) if stream_id in self._configurations:
                self._apply_configuration(stream_id)
            case h2.StreamReset(stream_id):
                self._configurations.pop(stream_id, None)

    def link_lost(self, exc: Exception | None) -> None:
        self._control.lost(exc)

    def _accept(self, stream_id: int, headers: Headers, is_bare: bool) -> None:
        match marks.marked_kind(headers):
            case marks.MarkedKind.CONTROL:
                self._accept_control(stream_id)
            case marks.MarkedKind.CONFIGURATION:
                self._configurations[stream_id] = bytearray()
            case kind:
                head = _request_head(_KINDS[kind], headers, has_body=not is_bare)
                stream = self.streams[stream_id] = ConnectorStream(self, stream_id, head)
                self._guarded(stream, stream.start, self._handler)

    def _accept_control(self, stream_id: int) -> None:
        if self._control_id:
            self.codec.reset_stream(stream_id, ErrorCode.REFUSED_STREAM)
            return
        self._control_id = stream_id
        self.codec.send_headers(stream_id, ((":status", "200"),))
        self._control.opened()

    def _write_control(self, data: bytes) -> None:
        _write_control(self, self._control_id, data)

    def _receive_configuration(self, stream_id: int, data: bytes) -> None:
        body = self._configurations[stream_id]
        body += data
        if len(body) > MAX_CONFIGURATION_SIZE:
            del self._configurations[stream_id]
            self.codec.reset_stream(stream_id, ErrorCode.ENHANCE_YOUR_CALM)

    def _apply_configuration(self, stream_id: int) -> None:
        """Refuse politely: this connector's routes are its own operator's business."""
        del self._configurations[stream_id]
        answer = encode_configuration_result(ConfigurationResult(-1, "remote configuration is not supported"))
        self.codec.send_headers(stream_id, ((":status", "200"), ("content-length", str(len(answer)))))
        self.codec.send_data(stream_id, answer)
        self.codec.end_stream(stream_id)


def _is_bare(head: RequestHead) -> bool:
    """Whether the request ends with its head."""
    return head.kind is StreamKind.HTTP and not head.has_body


def _request_headers(head: RequestHead) -> Headers:
    return (
        (":method", head.method if head.kind is StreamKind.HTTP else "GET"),
        (":scheme", "https"),
        (":authority", head.authority),
        (":path", head.path or "/"),
        *_MARKERS[head.kind],
        *marks.request_fields(head.headers),
    )


def _request_head(kind: StreamKind, headers: Headers, has_body: bool) -> RequestHead:
    pseudo = dict(field for field in headers if field[0].startswith(":"))
    return RequestHead(
        kind=kind,
        method=pseudo[":method"],
        authority=pseudo.get(":authority") or marks.first_value(headers, "host") or "",
        path=pseudo.get(":path", ""),
        headers=marks.without_markers(headers),
        has_body=has_body and kind is StreamKind.HTTP,
    )


def _response_headers(head: ResponseHead) -> Headers:
    if not head.from_upstream:
        meta = marks.RATE_LIMITED_META if head.rate_limited else marks.CONNECTOR_META
        return ((":status", "502"), (marks.RESPONSE_META, meta))
    status = 200 if head.status == 101 else head.status
    length = marks.first_value(head.headers, "content-length")
    plain = (("content-length", length),) if length is not None and length.isdigit() and head.status != 101 else ()
    return (
        (":status", str(status)),
        *plain,
        (marks.RESPONSE_META, marks.ORIGIN_META),
        (marks.RESPONSE_HEADERS, marks.serialise_headers(head.headers)),
    )


def _mapped(address: object) -> bytes:
    """An address as the 16 bytes that registration carries; empty when it is not an IP address."""
    if not isinstance(address, tuple) or not address:
        return b""
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return b""
    return bytes(10) + b"\xff\xff" + ip.packed if ip.version == 4 else ip.packed


def _write_control(link: Link, stream_id: int, data: bytes) -> None:
    """Answer, unless the peer asks and asks and takes no answer."""
    if link.codec.send_data(stream_id, data) > MAX_CONTROL_QUEUE:
        link.fail(ProtocolError("the peer does not read what it is answered on the control stream"))
    link.flush_soon()
