"""How log lines look, and when they are written. Who writes them: `logger.py`."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from select import PIPE_BUF
from stat import S_ISREG
from typing import Final, TextIO

quote: Final = encode_basestring_ascii
"""A string as JSON: for lines that are put together by hand."""
_THREE_DIGITS: Final = tuple(f"{number:03d}" for number in range(1000))
_DIGITS: Final = tuple(str(number) for number in range(1000))
"""Looked up, because formatting a number costs several times more."""
_KEPT_HEADS: Final = 256
_HEADS: Final[dict[tuple[int, str, str], str]] = {}
"""What lines of one kind have in common: most kinds are few phrases, but other libraries' are not."""
Fields = Mapping[str, object] | str
"""What a line says: by name, or encoded already."""
LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES: Final = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}
_SHORT: Final = {logging.DEBUG: "DBG", logging.INFO: "INF", logging.WARNING: "WRN"}
GATHER_FOR: Final = 0.01
"""Seconds that the lines of requests may wait for more of them."""

_encode: Final = json.JSONEncoder(default=str, ensure_ascii=True).encode


class LineStyle(ABC):
    """Makes a line."""

    @abstractmethod
    def line(self, created: float, level: int, msg: str, name: str, fields: Fields) -> str:
        """The line, without its end. `created` is Unix seconds; `name` is the logger's."""


class JSONLines(LineStyle):
    """One JSON object."""

    def __init__(self) -> None:
        self._second, self._moment = -1, ""

    def line(self, created: float, level: int, msg: str, name: str, fields: Fields) -> str:
        """See `LineStyle`."""
        second = int(created)
        if self._second != second:  # most lines share their second with the one before
            self._second, self._moment = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        members = fields if isinstance(fields, str) else _encode(fields)[1:-1]
        micros = int((created - second) * 1e6)
        return (
            f'{{"time": "{self._moment}.{_THREE_DIGITS[micros // 1000]}{_THREE_DIGITS[micros % 1000]}Z"'
            f"{_head(level, msg, name)}{', ' if members else ''}{members}}}"
        )


def _head(level: int, msg: str, name: str) -> str:
    head = _HEADS.get((level, msg, name))
    if head is None:
        if len(_HEADS) >= _KEPT_HEADS:
            _HEADS.clear()
        text = _NAMES.get(level) or logging.getLevelName(level).lower()
        head = f', "level": {quote(text)}, "msg": {quote(msg)}, "logger": {quote(name)}'
        _HEADS[level, msg, name] = head
    return head


class TextLines(LineStyle):
    """For people: `2026-08-01T15:04:05Z INF Registered tunnel connection connIndex=0 protocol=http2`."""

    def line(self, created: float, level: int, msg: str, name: str, fields: Fields) -> str:
        """See `LineStyle`."""
        fields = decoded(fields)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
        texts = " ".join(f"{key}={_text(value)}" for key, value in fields.items() if key != "traceback")
        line = f"{moment} {_SHORT.get(level, 'ERR')} {msg} {texts}".rstrip()
        return f"{line}\n{fields['traceback']}" if "traceback" in fields else line


def _text(value: object) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)


def decimal(number: int) -> str:
    """A number that is not negative, for lines that are put together by hand."""
    return _DIGITS[number] if number < 1000 else str(number)


def milliseconds(seconds: float) -> str:
    """To three places: `0.042`."""
    micros = int(seconds * 1e6 + 0.5)
    return f"{decimal(micros // 1000)}.{_THREE_DIGITS[micros % 1000]}"


def decoded(fields: Fields) -> Mapping[str, object]:
    """The same by name."""
    found: Mapping[str, object] = json.loads(f"{{{fields}}}") if isinstance(fields, str) else fields
    return found


class LineWriter:
    """Writes lines to a stream, all of one loop tick at once; errors, and lines from outside a loop, immediately.

    A request costs two lines: one system call each would be a good part of the proxy's CPU. They wait a moment longer.
    """

    def __init__(self, stream: TextIO, style: LineStyle) -> None:
        self.style = style
        self._stream = stream
        self._lines: list[str] = []
        self._lock = threading.RLock()
        self._flushing_on: asyncio.AbstractEventLoop | None = None
        self._gathering = False
        atexit.register(self.flush)

    def write(self, line: str, urgent: bool = False) -> None:
        """Write one line, or let it wait for the others of this tick."""
        self._lines.append(line)
        if urgent:
            self.flush()
        elif self._gathering or self._flushing_on is None or self._flushing_on.is_closed():
            self._flush_in(0.0)

    def gather(self, line: str) -> None:
        """Let a line wait for the others of the next `GATHER_FOR` seconds, or until one comes that cannot."""
        self._lines.append(line)
        if self._flushing_on is None or self._flushing_on.is_closed():
            self._flush_in(GATHER_FOR)

    def _flush_in(self, delay: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        self._flushing_on, self._gathering = loop, bool(delay)
        if delay:  # never cancelled, for a line may come from another thread: at worst it fires for nothing
            loop.call_later(delay, self.flush)
        else:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits. A stream that is gone loses it: there is nowhere to say so."""
        with self._lock:
            lines, self._lines = self._lines, []
            self._flushing_on, self._gathering = None, False
            if lines:
                with contextlib.suppress(ValueError, OSError):
                    self._put(lines)

    def _put(self, lines: list[str]) -> None:
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()


class SharedLineWriter(LineWriter):
    """The same where other processes write to the stream too: no line cuts another's.

    A file takes any number of bytes at once, whoever else writes; a pipe up to `PIPE_BUF`: so many whole lines go with
    each system call there. A line that is longer goes alone.
    """

    def _put(self, lines: list[str]) -> None:
        data = ("\n".join(lines) + "\n").encode(errors="backslashreplace")
        start, size = 0, len(data)
        takes = size if S_ISREG(os.fstat(self._stream.fileno()).st_mode) else PIPE_BUF
        while start < size:
            end = size
            if size - start > takes:
                end = data.rfind(b"\n", start, start + takes) + 1 or data.find(b"\n", start) + 1
            self._write_all(data[start:end])
            start = end

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._stream.fileno(), data) :]
