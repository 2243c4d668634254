"""Structured logs: one JSON object per line on standard error, with `time`, `level`, `msg` and the fields.

`msg` is a fixed phrase an operator can grep; whatever varies is a field. Secrets must not be passed at all; a
`SecretStr` that slips in prints as stars. Peer-supplied text is safe: JSON escapes line breaks and control characters.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Literal, TextIO

from qanat.log_lines import LEVELS, JSONLines, LineWriter, SharedLineWriter, TextLines, decoded

Level = Literal["debug", "info", "warn", "error"]
_ROOT = logging.getLogger()


class LineHandler(logging.Handler):
    """Brings the records of other libraries, and our own tracebacks, to where the lines are written."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self.writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = _TRACEBACKS.formatException(record.exc_info)
        line = self.writer.style.line(record.created, record.levelno, record.getMessage(), record.name, fields)
        self.writer.write(line, urgent=record.levelno >= logging.ERROR)

    def flush(self) -> None:
        self.writer.flush()


_TRACEBACKS = logging.Formatter()


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
            writer.gather(writer.style.line(time.time(), logging.INFO, msg, self._logger.name, members))
        else:
            self._logger.info("%s", msg, extra={"fields": decoded(members)})

    def warn(self, msg: str, /, **fields: object) -> None:
        self._log(logging.WARNING, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        self._log(logging.ERROR, msg, fields)

    def exception(self, msg: str, /, **fields: object) -> None:
        """An error with the current traceback: for bugs only."""
        self._logger.error("%s", msg, extra={"fields": fields}, exc_info=True)

    def enabled(self, level: Level) -> bool:
        """Whether a line at `level` would be written: ask before building expensive fields."""
        return self._logger.isEnabledFor(LEVELS[level])

    def _log(self, level: int, msg: str, fields: Mapping[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        writer = _only_writer()
        if writer is not None:
            line = writer.style.line(time.time(), level, msg, self._logger.name, fields)
            writer.write(line, urgent=level >= logging.ERROR)
        else:
            self._logger.log(level, "%s", msg, extra={"fields": fields})


def _only_writer() -> LineWriter | None:
    """Where lines can go without a record, because nobody else listens."""
    handlers = _ROOT.handlers
    if len(handlers) == 1 and isinstance(handlers[0], LineHandler):
        return handlers[0].writer
    return None


def get_logger(name: str) -> Logger:
    """The logger of a part: `get_logger("qanat.proxy")`."""
    return Logger(name)


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
    lines = JSONLines() if style == "json" else TextLines()
    _ROOT.handlers[:] = [LineHandler(writer(stream or sys.stderr, lines))]
    _ROOT.setLevel(logging.WARNING)  # libraries: httpx2 logs URLs with their queries at info
    set_level(level)


def set_level(level: Level) -> None:
    """Change how much is written, while running."""
    logging.getLogger("qanat").setLevel(LEVELS[level])
