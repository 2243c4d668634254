"""Where the tunnel token comes from: given once, or a file that is read again whenever it matters."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import SecretStr

from qanat.errors import ConfigInvalid
from qanat.wire.token import MAX_TOKEN_SIZE, TunnelToken, parse_token

POLL_EVERY = 1.0
"""Seconds between looks at the token file."""


class TokenSource:
    """Reads the token. A file may be replaced at any moment: the next registration uses the new one."""

    def __init__(self, token: SecretStr | None, token_file: Path | None) -> None:
        self._token, self._file = token, token_file

    def read(self) -> TunnelToken:
        """The token now. Raises `ConfigInvalid` when the file cannot be read, `TokenInvalid` when it holds no token."""
        if self._file is None:
            assert self._token is not None
            return parse_token(self._token.get_secret_value())
        try:
            with self._file.open("rb") as file:
                data = file.read(MAX_TOKEN_SIZE + 1)
        except OSError as error:
            raise ConfigInvalid([f"token file {self._file}: {(error.strerror or str(error)).lower()}"]) from error
        return parse_token(data.decode("ascii", "replace"))

    async def wait_changed(self) -> None:
        """Return once the file is another than when this was called; never without a file."""
        if self._file is None:
            await asyncio.Event().wait()
        before = self._mark()
        while self._mark() == before:  # noqa: ASYNC110 - a file has no event to wait for
            await asyncio.sleep(POLL_EVERY)

    def _mark(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
