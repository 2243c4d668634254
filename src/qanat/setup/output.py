"""Where setup's output goes: `dir:/path` or `k8s-secret:NAME`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from qanat.setup.errors import Misused
from qanat.setup.options import SERVICE_ACCOUNT
from qanat.setup.state import Changes


class Output(Protocol):
    """A small set of named files that change together. Both operations raise `OutputFailed`."""

    @property
    def restart_hint(self) -> str:
        """What to do so that connectors pick up a new token."""
        ...

    async def read(self) -> dict[str, bytes]:
        """Every file that is there, after finishing whatever an interrupted write left."""
        ...

    async def write(self, changes: Changes) -> None:
        """Apply all of `changes`, or none."""
        ...


def open_output(
    spec: str, environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT
) -> AbstractAsyncContextManager[Output]:
    """The output a flag names, held for this process alone while the context lasts. Raises `Misused`."""
    kind, _, name = spec.partition(":")
    if kind == "dir" and name:
        return _directory(Path(name))
    if kind == "k8s-secret" and name:
        return _secret(name, environ, service_account)
    raise Misused(f"--output: {spec!r} is neither dir:/path nor k8s-secret:NAME")


@asynccontextmanager
async def _directory(path: Path) -> AsyncIterator[Output]:
    from qanat.setup.directory import Directory

    with Directory(path) as directory:
        yield directory


@asynccontextmanager
async def _secret(name: str, environ: Mapping[str, str], service_account: Path) -> AsyncIterator[Output]:
    from qanat.setup.secret import open_secret

    async with open_secret(name, environ, service_account) as secret:
        yield secret
