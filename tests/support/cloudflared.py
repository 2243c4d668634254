"""A real cloudflared against an edge of ours, when `QANAT_CLOUDFLARED` names its binary.

It is kept on loopback: a static edge, no updates, no connectivity checks, and (where the machine lets us) a resolver
that refuses at once, because it looks up records of its maker even when it needs none.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.loopback_edge import TIMEOUT, tunnel_token

BINARY = os.environ.get("QANAT_CLOUDFLARED", "")
needs_cloudflared = pytest.mark.skipif(not BINARY, reason="QANAT_CLOUDFLARED names no cloudflared binary")


class Edge(Protocol):
    """Where it is to connect: a place for its files, and the edge's roots and address."""

    directory: Path
    cacert: Path

    @property
    def address(self) -> str:
        """`host:port`"""
        ...


@dataclass
class Cloudflared:
    """A running cloudflared and what it has printed."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Collect its output until it ends."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode(errors="replace").rstrip())
            self._more.set()
            self._more = asyncio.Event()

    async def wait_line(self, text: str) -> str:
        """The first line that contains `text`."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                more = self._more
                for line in self.lines:
                    if text in line:
                        return line
                await more.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(TIMEOUT):
            return await self.process.wait()


def _command(directory: Path) -> list[str]:
    """The command line, with a resolver of no use if we may have one."""
    command = [BINARY, "tunnel", "--config", str(directory / "none.yml"), "run"]
    if os.geteuid() or not shutil.which("unshare"):
        return command
    resolver = directory / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    script = f'mount --bind "{resolver}" /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *command]


@asynccontextmanager
async def cloudflared(
    edge: Edge,
    protocol: str,
    url: str | None,
    *,
    connections: int = 4,
    token: str | None = None,
    prefix: Sequence[str] = (),
    **env: str,
) -> AsyncIterator[Cloudflared]:
    """A cloudflared with `connections` slots at `edge`; stopped at the end. `prefix` puts it somewhere else."""
    (edge.directory / "none.yml").write_text("{}\n")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(edge.directory),
        "TUNNEL_TOKEN": token or tunnel_token(),
        "TUNNEL_EDGE": ",".join([edge.address] * connections),
        "TUNNEL_CACERT": str(edge.cacert),
        "TUNNEL_TRANSPORT_PROTOCOL": protocol,
        "TUNNEL_METRICS": "127.0.0.1:0",
        "TUNNEL_NO_PRECHECKS": "true",
        "NO_AUTOUPDATE": "true",
        **({} if url is None else {"TUNNEL_URL": url}),
    }
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *_command(edge.directory),
        env=variables | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Cloudflared(process)
    reader = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader
