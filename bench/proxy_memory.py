"""What a proxy holds: idle, for each open inner session, and for each open event stream.

`python -m bench.proxy_memory [streams]` runs the real program in a process of its own and prints its proportional set
size as the kernel counts it. Every event stream has an inner TLS session of its own, the dearest way to have one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from tests.support.proxy import DOMAIN, WAIT, TestPKI, config_data, make_pki, upgrade

from bench.measure import pss_bytes
from qanat.net.tls import TLSClient
from qanat.net.transport import Receiver, Transport
from qanat.net.websocket import WebSocketClient

REQUEST = f"GET /mcp HTTP/1.1\r\nHost: echo.{DOMAIN}\r\nAccept: text/event-stream\r\n\r\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"
STREAMS = 500


class Session(Receiver):
    """A caller's inner session; `open` and `heard` tell how far it is."""

    transport: Transport

    def __init__(self) -> None:
        self.open, self.heard = asyncio.Event(), asyncio.Event()
        self._received = b""

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self.open.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(EVENT):
            self.heard.set()


async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream: one event, then silence for as long as anybody listens."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + EVENT)
    await reader.read()
    writer.close()


@asynccontextmanager
async def proxy_process(pki: TestPKI, folder: Path, upstream: int) -> AsyncIterator[tuple[int, tuple[str, int]]]:
    """The proxy's process id and address."""
    data = config_data(pki, {"echo": f"http://127.0.0.1:{upstream}"}, log_level="info")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "qanat", "proxy", "-config", str(file)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    drain: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(WAIT):
            while b'"listening"' not in (line := await process.stderr.readline()):
                assert line, "the proxy did not start"
        host, _, port = yaml.safe_load(line)["address"].rpartition(":")
        drain = asyncio.create_task(process.stderr.read())  # request lines
        yield process.pid, (host, int(port))
    finally:
        process.terminate()
        await process.wait()
        if drain is not None:
            await drain


async def measure(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pki = make_pki(Path(folder))
        server = await asyncio.start_server(events, "127.0.0.1", 0)
        async with server, proxy_process(pki, Path(folder), server.sockets[0].getsockname()[1]) as (pid, address):
            await open_sessions(1, pki, address)  # what is loaded on first use belongs to none
            idle = pss_bytes((pid,))
            print(f"idle                      {idle / 1e6:8.1f} MB  ({os.uname().machine}, Python {sys.version[:6]})")
            sessions = await open_sessions(count, pki, address)
            opened = pss_bytes((pid,))
            print(f"each of {count} inner sessions {(opened - idle) / count / 1024:8.1f} KB")
            for session in sessions:
                session.transport.write(REQUEST)
            for session in sessions:
                await session.heard.wait()
            streaming = pss_bytes((pid,))
            print(f"each of their streams     {(streaming - opened) / count / 1024:8.1f} KB more")
            for session in sessions:
                session.transport.abort()


async def open_sessions(count: int, pki: TestPKI, address: tuple[str, int]) -> list[Session]:
    """So many inner sessions, one after the other."""
    sessions, context = [], pki.context("http/1.1")
    for _ in range(count):
        session = Session()
        await upgrade(address, WebSocketClient(TLSClient(session, context, f"echo.{DOMAIN}")))
        await session.open.wait()
        sessions.append(session)
    return sessions


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS))
