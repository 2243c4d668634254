"""Where the audit chain is written: a file that is only ever appended to, or standard output.

A line that could not be written is kept, in order, and written first when the file works again: a full disk leaves a
gap in time, never in the chain. A restarted proxy goes on where the file ends. The file is locked for as long as it is
open: two writers would each follow their own last line, and break the chain of both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qanat.errors import QanatError
from qanat.logger import get_logger
from qanat.proxy.policy.audit import Chain

MAX_PENDING = 10_000
"""Lines kept while the file cannot be written."""
_TAIL = 1024 * 1024

_log = get_logger("qanat.proxy.audit")


@dataclass(eq=False)
class AuditUnavailable(QanatError):
    """The log cannot be written, and the route must not be used without it."""

    code: ClassVar[str] = "audit_unavailable"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True

    def __str__(self) -> str:
        return "audit log cannot be written"


class AuditFile:
    """One chain and its file. `key` is for the chain; without one, argument hashes get a key of this process.

    Making one raises `BlockingIOError` when another process writes to the file, and `OSError` when it cannot be
    opened. A folder that is not there yet is waited for.
    """

    def __init__(self, file: str, key: bytes = b"") -> None:
        self._path = None if file == "stdout" else Path(file)
        self.hash_key = key or secrets.token_bytes(32)
        self._pending: deque[bytes] = deque()
        self._chain, self._key = Chain(key), key
        self._failed = False
        self._descriptor: int | None = None
        with contextlib.suppress(FileNotFoundError):
            self._descriptor = self._open()

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line. What goes wrong is logged and kept for `check`, never raised."""
        if len(self._pending) >= MAX_PENDING:
            _log.error("audit line lost", lines=1)
            return
        self._pending.append(self._chain.append(entry))
        self._write_pending()

    def check(self) -> None:
        """Raises `AuditUnavailable` when lines are waiting and still cannot be written."""
        if self._descriptor is None or self._pending:
            self._write_pending()
        if self._failed:
            raise AuditUnavailable

    def close(self) -> None:
        """Write what is left, note the head of the chain in the log, and close the file."""
        self._write_pending()
        _log.info("audit log closed", lines=self._chain.seq, head=self._chain.head)
        if self._descriptor is not None and self._path is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _write_pending(self) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            while self._pending:
                line = self._pending[0]
                written = os.write(self._descriptor, line)
                if written < len(line):
                    self._pending[0] = line[written:]
                    continue
                self._pending.popleft()
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.error("audit log write failed", reason=error.strerror, file=str(self._path or "stdout"))
            self._failed = True

    def _open(self) -> int:
        if self._path is None:
            return 1
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_up(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _take_up(self, descriptor: int) -> None:
        """Go on where the file ends."""
        seq, head = _read_end(descriptor, str(self._path))
        if self._chain.seq and seq:  # lines were made while its folder was missing: they would not follow
            raise OSError(errno.EEXIST, "somebody else has begun the file")
        if seq:
            self._chain = Chain(self._key, seq, head)


def _read_end(descriptor: int, name: str) -> tuple[int, str]:
    """Sequence number and hash of the last whole line; those of an empty chain when there is none."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    if tail and not tail.endswith(b"\n"):
        _log.warn("audit log ends in half a line", file=name)
        os.write(descriptor, b"\n")  # so that the next line starts on its own; verification will name the half one
    for line in reversed(tail.split(b"\n")):
        try:
            entry = json.loads(line)
            return int(entry["seq"]), str(entry["hash"])
        except (ValueError, KeyError, TypeError):
            continue
    return Chain().seq, Chain().head
