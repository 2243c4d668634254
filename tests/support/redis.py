"""A Redis server of a test's own: Debian's package, on a port of its own, gone afterwards."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis


class RedisServer:
    """`start` and `stop` it as often as needed: the port stays."""

    def __init__(self, directory: Path, bind: str = "127.0.0.1") -> None:
        self._directory, self._bind = directory, bind
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", self._bind, "--save", ""]
        arguments += ["--protected-mode", "no", "--dir", str(self._directory)]
        self.process = await asyncio.create_subprocess_exec(
            "redis-server", *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while True:
                try:
                    async with Redis.from_url(self.url) as client:
                        await client.ping()
                        return
                except OSError:
                    await asyncio.sleep(0.05)
                except Exception:
                    await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def redis_server(directory: Path, bind: str = "127.0.0.1") -> AsyncIterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    server = RedisServer(directory, bind)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
