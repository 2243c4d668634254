"""The WebSocket upgrade a client asks the edge for, and the edge's answer: sans I/O."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from qanat.client.errors import TunnelFailed
from qanat.net.http1_fields import encode_head, parse_fields, values
from qanat.wire.codec import Codec
from qanat.wire.websocket import accept_key

MAX_HEAD = 16 * 1024
MAX_BODY = 16 * 1024


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The edge switched protocols; `rest` are the first bytes of the WebSocket."""

    rest: bytes


class UpgradeExchange(Codec[Upgraded]):
    """One upgrade. `receive_data` raises `TunnelFailed` when the edge refuses or answers nonsense."""

    def __init__(self, host: str, nonce: bytes) -> None:
        super().__init__()
        self._key = base64.b64encode(nonce).decode()
        self._buffer = b""
        self._refusal: tuple[int, int] | None = None
        headers = [
            (b"Host", host.encode()),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", self._key.encode()),
        ]
        self._outgoing.append(encode_head(b"GET / HTTP/1.1", headers))

    def receive_data(self, data: bytes) -> None:
        self._buffer += data
        if self._refusal is None:
            self._read_head()
        else:
            self._read_refusal(ended=False)

    def receive_eof(self) -> None:
        if self._refusal is None:
            raise _nonsense("it closed the connection without an answer")
        self._read_refusal(ended=True)

    def _read_head(self) -> None:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            if len(self._buffer) > MAX_HEAD:
                raise _nonsense("its answer has no end")
            return
        start_line, *lines = head.split(b"\r\n")
        parts = start_line.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not (len(parts[1]) == 3 and parts[1].isdigit()):
            raise _nonsense("its answer is not HTTP")
        headers, self._buffer = parse_fields(lines), rest
        if int(parts[1]) == 101:
            if values(headers, b"sec-websocket-accept") != [accept_key(self._key).encode()]:
                raise _nonsense("it accepted an upgrade nobody asked for")
            self._events.append(Upgraded(rest))
            return
        lengths = values(headers, b"content-length")
        readable = lengths and lengths[0].isdigit() and len(lengths[0]) < 10
        length = int(lengths[0]) if readable else MAX_BODY
        self._refusal = (int(parts[1]), min(length, MAX_BODY))
        self._read_refusal(ended=False)

    def _read_refusal(self, *, ended: bool) -> None:
        assert self._refusal is not None
        status, length = self._refusal
        if ended or len(self._buffer) >= length:
            raise to_refusal(status, self._buffer[:length])


def to_refusal(status: int, body: bytes) -> TunnelFailed:
    """The edge's typed error as an exception; an answer of another kind still says its status."""
    try:
        error: Any = json.loads(body)["error"]
        return TunnelFailed(
            str(error["code"]), str(error["hop"]), str(error["message"]), may_retry=error.get("retryable") is True
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return TunnelFailed("bad_edge_answer", "edge", f"the edge answered with status {status}")


def _nonsense(what: str) -> TunnelFailed:
    return TunnelFailed("bad_edge_answer", "edge", f"the edge did not upgrade the connection: {what}")
