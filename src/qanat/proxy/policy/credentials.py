"""Credentials a route puts on its upstream requests, from files or the environment, never from the config file itself.

A file is read again when it changes. A credential that cannot be read closes the route: forwarding without it would
send a request the operator did not mean.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from qanat.config import Section
from qanat.errors import QanatError

_SECRET_NAMES = ("authorization", "cookie", "x-api-key", "*-token", "*-secret", "*-key")
_RESERVED = (
    "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "forwarded",
    "x-forwarded-*", "via", "mcp-*", "content-encoding",
)  # fmt: skip
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(eq=False)
class CredentialUnavailable(QanatError):
    """A credential's file or variable is missing or empty. `header` may be shown, its value never exists here."""

    code: ClassVar[str] = "credential_unavailable"
    status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True
    header: str
    reason: str

    def __str__(self) -> str:
        return f"credential for header {self.header} unavailable: {self.reason}"


class HeaderValue(Section):
    """Where a header's value comes from: exactly one of `file`, `env` and `value`."""

    file: Path | None = None
    env: str | None = None
    value: str | None = None
    prefix: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> HeaderValue:
        if sum(source is not None for source in (self.file, self.env, self.value)) != 1:
            raise ValueError("give exactly one of file, env and value")
        return self


class HeaderRules(Section):
    """`remove` comes first, then `set` replaces whatever the caller sent under that name."""

    remove: tuple[str, ...] = ()
    set: dict[str, HeaderValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _judge_names(self) -> HeaderRules:
        for name in (*self.remove, *self.set):
            if not _TOKEN.fullmatch(name):
                raise ValueError(f'"{name}" is not a header name')
        for name, source in self.set.items():
            if any(fnmatchcase(name.lower(), pattern) for pattern in _RESERVED):
                raise ValueError(f"{name} is the proxy's own business and may not be set")
            if source.value is not None and any(fnmatchcase(name.lower(), pattern) for pattern in _SECRET_NAMES):
                raise ValueError(f"{name} holds a secret: take it from a file or a variable, not from this file")
        return self


@dataclass(slots=True)
class _Cached:
    stamp: tuple[int, int, int]
    value: str = field(repr=False)


class HeaderInjector:
    """Applies `HeaderRules` to the headers of one request."""

    def __init__(self, rules: HeaderRules) -> None:
        self._rules = rules
        self._files: dict[Path, _Cached] = {}
        self.touched = frozenset(name.lower() for name in (*rules.remove, *rules.set))
        """Names of the caller's headers that do not go on, in lower case."""

    def values(self) -> list[tuple[str, str]]:
        """The headers to add. Raises `CredentialUnavailable`."""
        return [(name, self._value(name, source)) for name, source in self._rules.set.items()]

    def _value(self, name: str, source: HeaderValue) -> str:
        if source.value is not None:
            return source.prefix + source.value
        if source.env is not None:
            text = os.environ.get(source.env, "")
        else:
            assert source.file is not None
            text = self._read(name, source.file)
        if not text or not text.isprintable() or not text.isascii():
            raise CredentialUnavailable(name, "empty, or not one line of printable ASCII")
        return source.prefix + text

    def _read(self, name: str, path: Path) -> str:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            cached = self._files.get(path)
            if cached is None or cached.stamp != stamp:
                cached = self._files[path] = _Cached(stamp, path.read_text("ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not ASCII"
            raise CredentialUnavailable(name, reason.lower()) from error
        return cached.value
