"""Structured logs: one JSON object per line on standard error, with `time`, `level`, `msg` and the fields.

`msg` is a fixed phrase an operator can grep; whatever varies is a field. Secrets must not be passed at all; a
`SecretStr` that slips in prints as stars. Peer-supplied text is safe: JSON escapes line breaks and control characters.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

from qanat.log_lines import LEVELS, JSONLines, LineWriter, SharedLineWriter, TextLines
from qanat.logger import Level, direct

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
    handler = LineHandler(writer(stream or sys.stderr, lines))
    _ROOT.handlers[:] = [handler]
    direct.use(handler, handler.writer)
    _ROOT.setLevel(logging.WARNING)  # libraries: httpx2 logs URLs with their queries at info
    set_level(level)


def set_level(level: Level) -> None:
    """Change how much is written, while running."""
    direct.threshold = LEVELS[level]
    logging.getLogger("qanat").setLevel(LEVELS[level])
