"""Structured logs: one JSON object per line on standard error, with `time`, `level`, `msg` and the fields.

`msg` is a fixed phrase an operator can grep; whatever varies is a field. Secrets must not be passed at all; a
`SecretStr` that slips in prints as stars. Peer-supplied text is safe: JSON escapes line breaks and control characters.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from select import PIPE_BUF
from typing import ClassVar, Literal, TextIO

quote = encode_basestring_ascii
"""A string as JSON: for lines that are put together by hand."""
Level = Literal["debug", "info", "warn", "error"]
_LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_ROOT = logging.getLogger()
_NAMES = {number: name for name, number in _LEVELS.items()} | {logging.CRITICAL: "error"}


Fields = Mapping[str, object] | str
"""What a line says: by name, or encoded already."""
THREE_DIGITS = tuple(f"{number:03d}" for number in range(1000))
"""Looked up, because formatting a number to a width costs several times more."""
GATHER_FOR = 0.01
"""Seconds that the lines of requests may wait for more of them."""


class LineWriter(logging.Handler):
    """Writes lines to a stream, all of one loop tick at once; errors, and lines from outside a loop, immediately.

    A request costs two lines: one system call each would be a good part of the proxy's CPU. They wait a moment longer.
    """

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__()
        self.formatter: LineFormatter = formatter
        self._stream = stream
        self._lines: list[str] = []
        self._flushing_on: asyncio.AbstractEventLoop | None = None
        self._gathering = False
        atexit.register(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record), urgent=record.levelno >= logging.ERROR)

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
        with self.lock or contextlib.nullcontext():
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

    A pipe takes up to `PIPE_BUF` bytes at once, whoever else writes: so many whole lines go with each system call. A
    line that is longer goes alone.
    """

    def _put(self, lines: list[str]) -> None:
        group = b""
        for line in lines:
            data = f"{line}\n".encode(errors="backslashreplace")
            if group and len(group) + len(data) > PIPE_BUF:
                self._write_all(group)
                group = b""
            group += data
        self._write_all(group)

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._stream.fileno(), data) :]


class Logger:
    """`logger.info("route configured", route="tickets")`: a phrase and its fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, msg: str, /, **fields: object) -> None:
        self._log(logging.DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        self._log(logging.INFO, msg, fields)

    def members(self, msg: str, members: str) -> None:
        """A line at `info` that comes with each request: ask `enabled` first.

        It brings its fields encoded, as members of a JSON object without the braces: `'"status": 200'`. That costs a
        third.
        """
        writer = _only_writer()
        if writer is not None:
            writer.gather(writer.formatter.line(time.time(), logging.INFO, msg, self._logger.name, members))
        else:
            self._logger.info("%s", msg, extra={"fields": _decoded(members)})

    def warn(self, msg: str, /, **fields: object) -> None:
        self._log(logging.WARNING, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        self._log(logging.ERROR, msg, fields)

    def exception(self, msg: str, /, **fields: object) -> None:
        """An error with the current traceback: for bugs only."""
        self._logger.error("%s", msg, extra={"fields": fields}, exc_info=True)

    def enabled(self, level: Level) -> bool:
        """Whether a line at `level` would be written: ask before building expensive fields."""
        return self._logger.isEnabledFor(_LEVELS[level])

    def _log(self, level: int, msg: str, fields: Mapping[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        writer = _only_writer()
        if writer is not None:
            line = writer.formatter.line(time.time(), level, msg, self._logger.name, fields)
            writer.write(line, urgent=level >= logging.ERROR)
        else:
            self._logger.log(level, "%s", msg, extra={"fields": fields})


def _only_writer() -> LineWriter | None:
    """Where lines can go without a record, because nobody else listens."""
    handlers = _ROOT.handlers
    if len(handlers) == 1 and isinstance(handlers[0], LineWriter):
        return handlers[0]
    return None


def _decoded(fields: Fields) -> Mapping[str, object]:
    decoded: Mapping[str, object] = json.loads(f"{{{fields}}}") if isinstance(fields, str) else fields
    return decoded


def get_logger(name: str) -> Logger:
    """The logger of a part: `get_logger("qanat.proxy")`."""
    return Logger(name)


class LineFormatter(logging.Formatter):
    """Makes a line of a record, or of what would have become one."""

    def line(self, created: float, level: int, msg: str, name: str, fields: Fields) -> str:
        """The line. `created` is Unix seconds."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return self.line(record.created, record.levelno, record.getMessage(), record.name, fields)


class JSONFormatter(LineFormatter):
    """One JSON object."""

    _second: ClassVar[tuple[int, str]] = (-1, "")
    _encode = staticmethod(json.JSONEncoder(default=str, ensure_ascii=True).encode)

    def line(self, created: float, level: int, msg: str, name: str, fields: Fields) -> str:
        second = int(created)
        if self._second[0] != second:  # most lines share their second with the one before
            JSONFormatter._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        members = fields if isinstance(fields, str) else self._encode(fields)[1:-1]
        micros = int((created - second) * 1e6)
        return (
            f'{{"time": "{self._second[1]}.{THREE_DIGITS[micros // 1000]}{THREE_DIGITS[micros % 1000]}Z"'
            f"{_head(level, msg, name)}{', ' if members else ''}{members}}}"
        )


@functools.lru_cache(maxsize=256)
def _head(level: int, msg: str, name: str) -> str:
    text = _NAMES.get(level) or logging.getLevelName(level).lower()
    return f', "level": {quote(text)}, "msg": {quote(msg)}, "logger": {quote(name)}'


class TextFormatter(LineFormatter):
    """For people: `2026-08-01T15:04:05Z INF Registered tunnel connection connIndex=0 protocol=http2`."""

    _SHORT: ClassVar[dict[int, str]] = {logging.DEBUG: "DBG", logging.INFO: "INF", logging.WARNING: "WRN"}

    def line(self, created: float, level: int, msg: str, name: str, fields: Fields) -> str:
        fields = _decoded(fields)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
        texts = " ".join(f"{key}={_text(value)}" for key, value in fields.items() if key != "traceback")
        line = f"{moment} {self._SHORT.get(level, 'ERR')} {msg} {texts}".rstrip()
        return f"{line}\n{fields['traceback']}" if "traceback" in fields else line


def _text(value: object) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)


def setup_logging(
    level: Level = "info",
    style: Literal["json", "text"] = "json",
    stream: TextIO | None = None,
    *,
    shared: bool = False,
) -> None:
    """Send every logger's lines to `stream` (standard error by default). Called once by a command.

    With `shared` other processes write to the stream too, which must be a file then.
    """
    writer = SharedLineWriter if shared else LineWriter
    _ROOT.handlers[:] = [writer(stream or sys.stderr, JSONFormatter() if style == "json" else TextFormatter())]
    _ROOT.setLevel(logging.WARNING)  # libraries: httpx2 logs URLs with their queries at info
    set_level(level)


def set_level(level: Level) -> None:
    """Change how much is written, while running."""
    logging.getLogger("qanat").setLevel(_LEVELS[level])
