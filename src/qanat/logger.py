"""What the product calls to write a log line. Where lines go: `log.py`; how they look: `log_lines.py`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final, Literal

from qanat.log_lines import LEVELS, LineWriter, decoded

Level = Literal["debug", "info", "warn", "error"]
_HANDLERS: Final = logging.getLogger().handlers
_now: Final = time.time


class Direct:
    """The way around log records and loggers, which cost several times what a line does."""

    def __init__(self) -> None:
        self.threshold = logging.NOTSET
        """The level from which on lines are written."""
        self._handler: logging.Handler | None = None
        self._writer: LineWriter | None = None

    def use(self, handler: logging.Handler, writer: LineWriter) -> None:
        """Whatever `handler` is told would only be written by `writer`."""
        self._handler, self._writer = handler, writer

    def writer(self) -> LineWriter | None:
        """Where lines can go without a record, because nobody else listens."""
        return self._writer if len(_HANDLERS) == 1 and _HANDLERS[0] is self._handler else None


direct: Final = Direct()


class Logger:
    """`logger.info("route configured", route="tickets")`: a phrase and its fields."""

    def __init__(self, name: str) -> None:
        self.name = name
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
        writer = direct.writer()
        if writer is not None:
            writer.gather(writer.style.line(_now(), logging.INFO, msg, self.name, members))
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
        return self._wants(LEVELS[level])

    def _wants(self, level: int) -> bool:
        return level >= direct.threshold if direct.writer() is not None else self._logger.isEnabledFor(level)

    def _log(self, level: int, msg: str, fields: Mapping[str, object]) -> None:
        if not self._wants(level):
            return
        writer = direct.writer()
        if writer is not None:
            line = writer.style.line(_now(), level, msg, self.name, fields)
            writer.write(line, urgent=level >= logging.ERROR)
        else:
            self._logger.log(level, "%s", msg, extra={"fields": fields})


def get_logger(name: str) -> Logger:
    """The logger of a part: `get_logger("qanat.proxy")`."""
    return Logger(name)
