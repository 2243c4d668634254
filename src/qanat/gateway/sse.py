"""Server-sent events, read and written: the framing of streamed messages on both sides of the gateway."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qanat.errors import ProtocolError
from qanat.wire.codec import Codec

MAX_EVENT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One frame. `event` is empty when the frame has no name."""

    event: str
    data: str


class EventStreamReader(Codec[ServerSentEvent]):
    """Frames from bytes cut anywhere, also inside a character. Comments, ids and retry hints are dropped."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        super().__init__()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun, self._begun_size, self._ended_by_return = [""], 0, False
        self._event, self._data, self._size = "", list[str](), 0
        self._max_event = max_event

    def receive_data(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        if "\n" not in text and "\r" not in text and not self._ended_by_return:
            self._begun.append(text)  # a long line comes in many pieces: joined once, at its end
            self._begun_size += len(text)
            self._check_size(self._begun_size)
            return
        text = "".join([*self._begun, text])
        # A lone CR at the end may be half of CRLF.
        held = "\r" if text.endswith("\r") else ""
        lines = (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._begun = [lines.pop() + held]
        self._begun_size, self._ended_by_return = len(self._begun[0]), bool(held)
        self._check_size(self._begun_size)
        for line in lines:
            self._receive_line(line)

    def _receive_line(self, line: str) -> None:
        if not line:
            if self._data:
                self._events.append(ServerSentEvent(self._event, "\n".join(self._data)))
            self._event, self._data, self._size = "", [], 0
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
            self._size += len(value) + 1
            self._check_size(0)

    def _check_size(self, begun: int) -> None:
        if self._size + begun > self._max_event:
            raise ProtocolError(f"a server-sent event is larger than {self._max_event} bytes")


def encode_event(event: dict[str, Any]) -> bytes:
    """One event of a streamed message; its name is its `type`, or official clients drop it."""
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    # JSON leaves U+2028 and the like alone; only CR and LF would break a frame, and JSON escapes those.
    return f"event: {event['type']}\ndata: {data}\n\n".encode("utf-8", "replace")


def encode_events(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(encode_event(event) for event in events)
