"""A Redis server of a test's own: Debian's package, on a port of its own, gone afterwards."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.support.ports import free_port

TRIES = 5


class RedisServer:
    """`start` and `stop` it as often as needed: the port stays."""

    def __init__(self, directory: Path, bind: str = "127.0.0.1") -> None:
        self._directory, self._bind = directory, bind
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """The first time on a port that was free a moment ago; when somebody else was quicker, on another."""
        for _ in range(TRIES if not self.port else 1):
            port = self.port or free_port()
            if await self._start(port):
                self.port = port
                return
        raise AssertionError("redis-server ended at once")

    async def _start(self, port: int) -> bool:
        """False when the server ended instead of listening."""
        arguments = ["--port", str(port), "--bind", self._bind, "--save", ""]
        arguments += ["--protected-mode", "no", "--dir", str(self._directory)]
        self.process = await asyncio.create_subprocess_exec(
            "redis-server", *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while self.process.returncode is None:
                try:
                    async with Redis.from_url(f"redis://127.0.0.1:{port}/0") as client:
                        if (await client.info("server"))["process_id"] == self.process.pid:
                            return True
                except (RedisError, OSError):
                    pass
                await asyncio.sleep(0.05)
        return False

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
