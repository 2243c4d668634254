"""Secrets that tests plant, and the search for them in everything that was logged.

A plugin of the whole run. Whatever the product's loggers are told is written to a file, at every level and also where
logging is switched off; at the end the file is searched. A run in which a secret is found has failed.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from qanat.log_lines import Fields, JSONLines
from qanat.logger import Level, Logger
from qanat.net.process import is_compiled

MARK = "pl4nted"
FOUND = "planted_secrets_found"
_SHAPES = re.compile(
    rf"{MARK}-[\w-]+"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}"  # a JWT
    r"|(?i:bearer) [\w.~+/-]{16,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_REMEMBERED: set[str] = set()


def plant(kind: str) -> str:
    """A value that no log line may hold: a token, a session id, a query, an argument."""
    return f"{MARK}-{kind}-{secrets.token_hex(6)}"


def remember(secret: str) -> str:
    """Count a secret that cannot carry the mark, such as a tunnel token, among the planted ones."""
    _REMEMBERED.add(secret)
    return secret


def leaks_in(line: str) -> list[str]:
    """What of a line should not be there."""
    return [*_SHAPES.findall(line), *(secret for secret in _REMEMBERED if secret in line)]


class Tap:
    """Writes down what loggers are told, with the test that ran; the lines go where they went before, too."""

    def __init__(self) -> None:
        with ExitStack() as files:
            # Bytes: CPython 3.11's text files spoil what one thread writes while another flushes (gh-119506).
            self.lines = files.enter_context(tempfile.TemporaryFile())
            self._files = files.pop_all()
        self._patch = pytest.MonkeyPatch()
        self._style = JSONLines()

    def open(self) -> None:
        """Begin to listen. Not where loggers are compiled, and their methods cannot be replaced: they say the same."""
        if is_compiled():
            return
        log, say_members, exception = Logger._log, Logger.members, Logger.exception

        def hear_log(logger: Logger, level: int, msg: str, fields: dict[str, object]) -> None:
            self._write(logger, level, msg, fields)
            log(logger, level, msg, fields)

        def hear_members(logger: Logger, msg: str, members: str) -> None:
            self._write(logger, logging.INFO, msg, members)
            if logger._logger.isEnabledFor(logging.INFO):  # who asks is always told yes, see below
                say_members(logger, msg, members)

        def hear_exception(logger: Logger, msg: str, /, **fields: object) -> None:
            traceback = logging.Formatter().formatException(sys.exc_info())
            self._write(logger, logging.ERROR, msg, {**fields, "traceback": traceback})
            exception(logger, msg, **fields)

        def always(logger: Logger, level: Level) -> bool:
            return True  # what is built only for somebody who reads it is heard too

        self._patch.setattr(Logger, "_log", hear_log)
        self._patch.setattr(Logger, "members", hear_members)
        self._patch.setattr(Logger, "exception", hear_exception)
        self._patch.setattr(Logger, "enabled", always)

    def _write(self, logger: Logger, level: int, msg: str, fields: Fields) -> None:
        line = self._style.line(0.0, level, msg, logger._logger.name, fields)
        self.lines.write(f"{os.environ.get('PYTEST_CURRENT_TEST', '-')}\t{line}\n".encode())

    def leaks(self) -> Iterator[str]:
        """Test by test, what was found in which line."""
        self.lines.seek(0)
        for entry in map(bytes.decode, self.lines):
            test, _, line = entry.partition("\t")
            for leak in leaks_in(line):
                yield f"{test}: {leak} in {line.strip()}"

    def close(self) -> None:
        """Listen no longer."""
        self._patch.undo()
        self._files.close()

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Do not listen for a while: for what counts the work of a call."""
        self._patch.undo()
        try:
            yield
        finally:
            self.open()


@pytest.fixture
def unheard(pytestconfig: pytest.Config) -> Iterator[None]:
    """For tests that count what a call costs: listening is not part of it."""
    with pytestconfig.stash[TAP].deaf():
        yield


TAP = pytest.StashKey[Tap]()
LEAKS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TAP] = tap = Tap()
    config.stash[LEAKS] = []
    config.add_cleanup(tap.close)
    tap.open()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search; a worker of a divided run tells the one that reports."""
    found = session.config.stash[LEAKS]
    found += dict.fromkeys(session.config.stash[TAP].leaks())
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[FOUND] = found
    elif found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker is done."""
    node.config.stash[LEAKS] += getattr(node, "workeroutput", {}).get(FOUND, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash[LEAKS]:
        terminalreporter.section("secrets in the log", red=True)
        for leak in found:
            terminalreporter.line(leak[:400])
