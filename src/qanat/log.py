"""Structured logs: one JSON object per line on standard error, with `time`, `level`, `msg` and the fields.

`msg` is a fixed phrase an operator can grep; whatever varies is a field. Secrets must not be passed at all; a
`SecretStr` that slips in prints as stars. Peer-supplied text is safe: JSON escapes line breaks and control characters.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, TextIO

Level = Literal["debug", "info", "warn", "error"]
_LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {number: name for name, number in _LEVELS.items()} | {logging.CRITICAL: "error"}


class Logger:
    """`logger.info("route configured", route="tickets")`: a phrase and its fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, msg: str, /, **fields: object) -> None:
        self._log(logging.DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        self._log(logging.INFO, msg, fields)

    def warn(self, msg: str, /, **fields: object) -> None:
        self._log(logging.WARNING, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        self._log(logging.ERROR, msg, fields)

    def exception(self, msg: str, /, **fields: object) -> None:
        """An error with the current traceback: for bugs only."""
        self._log(logging.ERROR, msg, fields, exc_info=True)

    def enabled(self, level: Level) -> bool:
        """Whether a line at `level` would be written: ask before building expensive fields."""
        return self._logger.isEnabledFor(_LEVELS[level])

    def _log(self, level: int, msg: str, fields: dict[str, object], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", msg, extra={"fields": fields}, exc_info=exc_info)


def get_logger(name: str) -> Logger:
    """The logger of a part: `get_logger("qanat.proxy")`."""
    return Logger(name)


class JSONFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "msg": record.getMessage(),
            "logger": record.name,
        }
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=True)


class TextFormatter(logging.Formatter):
    """A record for people: `15:04:05 INF Registered tunnel connection connIndex=0 protocol=http2`."""

    _SHORT: ClassVar[dict[int, str]] = {logging.DEBUG: "DBG", logging.INFO: "INF", logging.WARNING: "WRN"}

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = " ".join(f"{key}={_text(value)}" for key, value in getattr(record, "fields", {}).items())
        line = f"{time} {self._SHORT.get(record.levelno, 'ERR')} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _text(value: object) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)


def setup_logging(level: Level = "info", style: Literal["json", "text"] = "json", stream: TextIO | None = None) -> None:
    """Send every logger's lines to `stream` (standard error by default). Called once by a command."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries: httpx2 logs URLs with their queries at info
    logging.getLogger("qanat").setLevel(_LEVELS[level])
