"""Output to a directory, atomic as a whole.

Each file is replaced by a rename. Several at once go through a journal: it is written first, then applied file by
file, then removed; whoever finds one applies it again. So a run killed anywhere leaves all of a change or none of it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from qanat.setup.errors import OutputFailed, SetupRefused
from qanat.setup.state import MODES, NAMES, SECRET_MODE, Changes

JOURNAL = ".pending"
LOCK = ".lock"
MAX_FILE_SIZE = 64 * 1024


class Directory:
    """The files of a stack in one directory. Use as a context manager: it holds the directory's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def restart_hint(self) -> str:
        return (
            f"copy {self.path / 'tunnel-token'} to every other host of this stack, then restart the connector on "
            "each; connections that are open stay open until then"
        )

    def __enter__(self) -> Directory:
        path = self.path / LOCK
        with _explained(path):
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET_MODE)
            self._give_to_owner(self._lock)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.__exit__(None, None, None)
            raise SetupRefused(f"another setup is at work in {self.path}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def read(self) -> dict[str, bytes]:
        self._finish()
        return {name: data for name in NAMES if (data := self._read(name)) is not None}

    async def write(self, changes: Changes) -> None:
        if len(changes) > 1:
            self._replace(JOURNAL, _to_journal(changes), SECRET_MODE)
        self._apply(changes)

    def _finish(self) -> None:
        journal = self._read(JOURNAL)
        if journal is None:
            return
        try:
            changes = _from_journal(journal)
        except (ValueError, TypeError, AttributeError):
            raise OutputFailed(f"{self.path / JOURNAL}: not a journal of ours; remove it") from None
        self._apply(changes)

    def _apply(self, changes: Changes) -> None:
        for name, data in changes.items():
            if data is None:
                self._remove(name)
            else:
                self._replace(name, data, self._mode(name))
        self._remove(JOURNAL)

    def _mode(self, name: str) -> int:
        """The mode a person gave the file, for those who run the proxy as another user; else ours."""
        try:
            return stat.S_IMODE((self.path / name).stat().st_mode)
        except OSError:
            return MODES[name]

    def _read(self, name: str) -> bytes | None:
        path = self.path / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_SIZE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputFailed(f"open {path}: {(error.strerror or str(error)).lower()}") from error
        if len(data) > MAX_FILE_SIZE:
            raise OutputFailed(f"{path}: larger than {MAX_FILE_SIZE} bytes")
        return data

    def _replace(self, name: str, data: bytes, mode: int) -> None:
        path, temporary = self.path / name, self.path / f".{name.lstrip('.')}.new"
        with _explained(path):
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(temporary, flags, SECRET_MODE), "wb") as file:  # noqa: PTH123 - takes a descriptor
                file.write(data)
                os.fchmod(file.fileno(), mode)
                self._give_to_owner(file.fileno())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._sync()

    def _give_to_owner(self, descriptor: int) -> None:
        if os.geteuid() == 0:  # root prepares a directory for an unprivileged proxy
            owner = self.path.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _remove(self, name: str) -> None:
        path = self.path / name
        if not path.exists():
            return
        with _explained(path):
            path.unlink()
            self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _to_journal(changes: Changes) -> bytes:
    encoded = {name: None if data is None else base64.b64encode(data).decode() for name, data in changes.items()}
    return json.dumps(encoded).encode()


def _from_journal(journal: bytes) -> dict[str, bytes | None]:
    entries = json.loads(journal)
    return {name: None if data is None else base64.b64decode(data) for name, data in entries.items() if name in NAMES}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line, with what usually helps."""
    try:
        yield
    except PermissionError as error:
        owner = f"{os.geteuid()}:{os.getegid()}"
        hint = f"the directory must be writable for this user: chown -R {owner} {path.parent}"
        raise OutputFailed(f"open {path}: permission denied ({hint})") from error
    except OSError as error:
        raise OutputFailed(f"open {path}: {(error.strerror or str(error)).lower()}") from error
