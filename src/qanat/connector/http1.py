"""HTTP/1.1 towards the upstream: a request head as bytes, and a codec that reads the answer.

The request is rebuilt with an explicit header policy; nothing that came over the tunnel can end a line early.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import httptools

from qanat.errors import ProtocolError, UnexpectedEnd
from qanat.tunnel.connection import Headers, RequestHead, StreamKind
from qanat.wire.codec import Codec

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"}
)
"""Headers that speak of one connection only (RFC 9110 7.6.1)."""
MAX_HEAD_SIZE = 1024 * 1024
"""Bytes of header names and values in one answer: what cloudflared accepts."""
BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[!-~\x80-\xff]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")


@dataclass(eq=False)
class RequestUnfit(ProtocolError):
    """A request head that cannot be written as HTTP/1.1 without changing its meaning."""

    code: ClassVar[str] = "request_unfit"


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """The answer's status and headers; hop-by-hop ones are gone, except from a 101."""

    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class BodyReceived:
    """Some of the body, without its framing; after a 101, raw bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The answer is whole."""

    trailers: Headers = ()


AnswerEvent = AnswerReceived | BodyReceived | AnswerEnded


def request_head(head: RequestHead, connector_id: str) -> bytes:
    """The head of `head` for an upstream, ready to send. Raises `RequestUnfit`."""
    lines = [f"{head.method} {head.path} HTTP/1.1", f"Host: {head.authority}"]
    if not (_TOKEN.fullmatch(head.method) and _TARGET.fullmatch(head.path) and _VALUE.fullmatch(head.authority)):
        raise RequestUnfit("a request line that HTTP/1.1 cannot carry")
    for name, value in head.headers:
        if _travels(head, name.lower()):
            if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise RequestUnfit("a request header that HTTP/1.1 cannot carry")
            lines.append(f"{name}: {value}")
    lines.append(f"Cf-Warp-Tag-Id: {connector_id}")
    lines += _framing(head)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def is_chunked(head: RequestHead) -> bool:
    """Whether the request's body travels in chunks: it has one, of a length nobody announced."""
    return head.kind is StreamKind.HTTP and head.has_body and content_length(head) is None


def content_length(head: RequestHead) -> int | None:
    """The length the request announces. Raises `RequestUnfit` when there are several or it is no number."""
    values = {value for name, value in head.headers if name.lower() == "content-length"}
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch(r"[0-9]{1,18}", value := values.pop()):
        raise RequestUnfit("a content-length that is not one number")
    return int(value)


def _travels(head: RequestHead, name: str) -> bool:
    if name in HOP_BY_HOP or name in ("host", "content-length", "cf-warp-tag-id") or name.startswith("cf-cloudflared-"):
        return False
    return not (head.kind is StreamKind.WEBSOCKET and name == "sec-websocket-version")


def _framing(head: RequestHead) -> list[str]:
    if head.kind is StreamKind.WEBSOCKET:
        return ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    length = content_length(head)
    if not head.has_body:
        return ["Connection: close", *(["Content-Length: 0"] if head.method in BODY_EXPECTED else [])]
    return ["Connection: close", "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]


class AnswerReader(Codec[AnswerEvent]):
    """Reads one answer. After a 101 everything is body.

    `method` is the request's: an answer to HEAD has no body whatever its headers say.
    """

    def __init__(self, method: str) -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self)
        self._is_head = method == "HEAD"
        self._headers: list[tuple[str, str]] = []
        self._head_size = 0
        self._head_done = self._ended = self.upgraded = False
        self._until_close = False

    def receive_data(self, data: bytes) -> None:
        if self.upgraded:
            self._events.append(BodyReceived(data))
            return
        if self._ended:
            return  # a talkative upstream: nobody asked for more
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self.is_ended():
                cause = error.__context__
                reason = cause if isinstance(cause, ProtocolError) else ProtocolError("upstream broke HTTP/1.1")
                raise reason from None

    def receive_eof(self) -> None:
        if self._ended or self.upgraded:
            return
        if not (self._head_done and self._until_close):
            raise UnexpectedEnd("the upstream's answer")
        self._end()

    def is_ended(self) -> bool:
        """Whether the answer is whole."""
        return self._ended

    def _upgrade(self, rest: bytes) -> None:
        if not self._head_done:
            raise ProtocolError("upstream switched protocols out of turn")
        self.upgraded = True
        if rest:
            self._events.append(BodyReceived(rest))

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._events.append(AnswerEnded(tuple(self._headers)))

    # Called by httptools.

    def on_message_begin(self) -> None:
        if self._ended:
            raise ProtocolError("upstream answered more than it was asked")  # stops the parser; nobody hears of it
        self._headers, self._head_size = [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD_SIZE:
            raise ProtocolError("upstream's answer has too large a head")
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if status < 200 and status != 101:
            return  # 100 Continue, 103 Early Hints: the wire has no place for them
        self._head_done = True
        names = {name.lower(): value.lower() for name, value in headers}
        self._until_close = "content-length" not in names and "chunked" not in names.get("transfer-encoding", "")
        if status != 101:
            named = {token.strip() for token in names.get("connection", "").split(",")}
            headers = [line for line in headers if line[0].lower() not in HOP_BY_HOP | named]
        self._events.append(AnswerReceived(status, tuple(headers)))
        if self._is_head or status in (204, 304):
            self._end()

    def on_body(self, body: bytes) -> None:
        if not self._ended:
            self._events.append(BodyReceived(body))

    def on_message_complete(self) -> None:
        if self._head_done and self._parser.get_status_code() != 101:
            self._end()
