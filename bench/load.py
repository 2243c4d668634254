"""The load: sessions that speak HTTP/1.1 through whatever layers a chain begins with.

Push-based like the product, so that one core drives more calls than any chain answers; the report shows how busy it
was. `run` takes a job as JSON on standard input; the result is JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
import uvloop

from bench.layers import TLS, Layer, Stack, WebSocket
from qanat.net.process import use_large_blocks
from qanat.net.transport import as_protocol

CALL_BODY = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {"q": "z" * 900}}}
).encode()


@dataclass(frozen=True, slots=True)
class Target:
    """How to reach the upstream: where to connect, and which layers to put on top, outermost first.

    Layers: `outer` (TLS with a client certificate), `websocket`, `inner` (TLS).
    """

    port: int
    host: str
    layers: tuple[str, ...]
    receive_buffer: int = 0
    """Bytes the kernel may keep for each of our sockets; 0 leaves it alone."""
    outer_name: str = ""
    """The name on the edge's certificate."""
    outer_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    inner_ca: str = ""


@dataclass
class Tally:
    """What happened."""

    calls: int = 0
    failed: int = 0
    events: int = 0
    bytes: int = 0
    latencies: list[float] = field(default_factory=list)
    begun: float = 0.0
    cpu_begun: float = 0.0


class Session(Stack):
    """One HTTP/1.1 client connection; `ready` when it stands, then one request at a time."""

    def __init__(self, host: str, layers: list[Layer], tally: Tally) -> None:
        super().__init__(layers)
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._host, self._tally = host, tally
        self._on_done: Callable[[], None] = lambda: None
        self.rest: tuple[int, float] | None = None
        """After so many bytes, read nothing for so many seconds."""
        self._taken = 0
        self._pieces = self._size = 0
        self._piece = b""
        self._known_size, self._known_body = 0, b""
        """An answer that came in one piece. One like it need not be parsed, so that little is spent here."""

    def opened(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.ready.set_result(None)

    def lost(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        else:
            self._tally.failed += 1
            self._on_done()

    def message(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A request as it goes over the wire."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def request(self, message: bytes, on_done: Callable[[], None]) -> None:
        """Send a request; `on_done` when its answer is complete."""
        self._on_done, self._pieces, self._size = on_done, 0, 0
        self._begun = time.perf_counter()
        self.send(message)

    def received(self, data: bytes) -> None:
        if len(data) == self._known_size and not self._pieces and self._is_known(data):
            self._tally.bytes += len(self._known_body)
            self._complete()
            return
        self._pieces += 1
        self._piece = data if self._pieces == 1 else b""
        self._parser.feed_data(data)

    def _is_known(self, data: bytes) -> bool:
        return data.startswith(b"HTTP/1.1 200 ") and data.endswith(self._known_body)

    def on_body(self, data: bytes) -> None:
        self._tally.bytes += len(data)
        self._size += len(data)
        self._tally.events += data.count(b"\n\n")
        self._taken += len(data)
        if self.rest is not None and self._taken >= self.rest[0]:
            self._taken = 0
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.rest[1], self.transport.resume_reading)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._tally.failed += 1
        if self._pieces == 1:
            self._known_size, self._known_body = len(self._piece), self._piece[-self._size :]
        self._piece = b""
        self._complete()

    def _complete(self) -> None:
        self._tally.latencies.append(time.perf_counter() - self._begun)
        self._tally.calls += 1
        self._on_done()


class Dialler:
    """Opens sessions to a target."""

    def __init__(self, target: Target, tally: Tally) -> None:
        self._target, self._tally = target, tally
        self._outer = self._inner = None
        if "outer" in target.layers:
            self._outer = ssl.create_default_context(cafile=target.outer_ca)
            self._outer.load_cert_chain(target.client_cert, target.client_key)
        if "inner" in target.layers:
            self._inner = ssl.create_default_context(cafile=target.inner_ca)

    async def open(self) -> Session:
        """A session ready for requests."""
        session = Session(self._target.host, [self._layer(name) for name in self._target.layers], self._tally)
        await asyncio.get_running_loop().create_connection(lambda: as_protocol(session), sock=await self._connect())
        async with asyncio.timeout(60):
            await session.ready
        return session

    async def _connect(self) -> socket.socket:
        connected = socket.socket()
        connected.setblocking(False)
        if self._target.receive_buffer:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._target.receive_buffer)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", self._target.port))
        return connected

    def _layer(self, name: str) -> Layer:
        if name == "websocket":
            return WebSocket(self._target.host)
        context = self._outer if name == "outer" else self._inner
        assert context is not None
        return TLS(context, self._target.outer_name if name == "outer" else self._target.host)


async def open_all(dialler: Dialler, count: int, at_once: int = 32) -> list[Session]:
    """Many sessions, a few at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one() -> Session:
        async with gate:
            return await dialler.open()

    return await asyncio.gather(*(one() for _ in range(count)))


async def run_calls(dialler: Dialler, tally: Tally, job: dict[str, Any]) -> None:
    """`sessions` in a closed loop until `calls` are answered; the first tenth warms up and is not counted."""
    sessions = await open_all(dialler, job["sessions"])
    await _closed_loop(sessions, tally, max(len(sessions), job["calls"] // 10))
    _begin(tally)
    await _closed_loop(sessions, tally, job["calls"])


async def _closed_loop(sessions: list[Session], tally: Tally, total: int) -> None:
    done = asyncio.get_running_loop().create_future()
    message = sessions[0].message("POST", "/call", CALL_BODY)
    started = 0
    finished = 0

    def loop(session: Session) -> None:
        def next_call() -> None:
            nonlocal started
            if started < total:
                started += 1
                session.request(message, complete)

        def complete() -> None:
            nonlocal finished
            finished += 1
            if finished == total and not done.done():
                done.set_result(None)
            next_call()

        next_call()

    for session in sessions:
        loop(session)
    await done


async def run_new_sessions(dialler: Dialler, tally: Tally, job: dict[str, Any]) -> None:
    """A fresh session for each call."""

    async def one() -> None:
        begun = time.perf_counter()
        session = await dialler.open()
        await _all_done([session], "POST", "/call", CALL_BODY)
        tally.latencies[-1] = time.perf_counter() - begun
        session.transport.abort()

    await one()
    _begin(tally)
    for _ in range(job["calls"] // 8):
        await asyncio.gather(*(one() for _ in range(8)))
    tally.failed = 0  # our own aborts


async def run_events(dialler: Dialler, tally: Tally, job: dict[str, Any]) -> None:
    """`sessions` event streams at once, `events` each, one every `every` milliseconds."""
    sessions = await open_all(dialler, job["sessions"])
    _begin(tally)
    await _all_done(sessions, "GET", f"/events?n={job['events']}&every={job['every']}")


async def run_bulk(dialler: Dialler, tally: Tally, job: dict[str, Any]) -> None:
    """`bytes` down or up, `times` in a row."""
    session = await dialler.open()
    _begin(tally)
    for _ in range(job["times"]):
        if job["direction"] == "down":
            await _all_done([session], "GET", f"/bulk?bytes={job['bytes']}")
        else:
            await _all_done([session], "POST", "/sink", b"u" * job["bytes"])


async def run_idle(dialler: Dialler, tally: Tally, job: dict[str, Any]) -> None:
    """`sessions` that make one call and then only exist, and are weighed."""
    sessions = await open_all(dialler, job["sessions"])
    _begin(tally)
    await _closed_loop(sessions, tally, len(sessions))
    await _weigh()


async def run_slow(dialler: Dialler, tally: Tally, job: dict[str, Any]) -> None:
    """`bytes` down, `times` in all and `at_once`, to readers that rest, while one that sleeps is owed as much.

    The chain is weighed after each; the sleeper wakes at the end, and then must get the whole of it.
    """
    path = f"/bulk?bytes={job['bytes']}"
    sleeper, *readers = await open_all(dialler, 1 + job["at_once"])
    _begin(tally)
    sleeper.transport.pause_reading()
    owed = asyncio.create_task(_all_done([sleeper], "GET", path))
    for reader in readers:
        reader.rest = job["rest_after"], job["rest_for"]
    for _ in range(job["times"] // len(readers)):
        await _all_done(readers, "GET", path)
        await _weigh()
    sleeper.transport.resume_reading()
    await owed


async def _weigh() -> None:
    """Let the harness weigh the chain as it is now."""
    print("weigh", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def _all_done(sessions: list[Session], method: str, path: str, body: bytes = b"") -> None:
    waits = [asyncio.Event() for _ in sessions]
    for session, wait in zip(sessions, waits, strict=True):
        session.request(session.message(method, path, body), wait.set)
    for wait in waits:
        await wait.wait()


def _begin(tally: Tally) -> None:
    """Everything is set up: let the harness read its meters, then count from here."""
    tally.calls = tally.failed = tally.events = tally.bytes = 0
    tally.latencies.clear()
    print("begin", flush=True)
    sys.stdin.readline()
    tally.begun, tally.cpu_begun = time.perf_counter(), time.process_time()


RUNS = {
    "calls": run_calls,
    "new": run_new_sessions,
    "events": run_events,
    "bulk": run_bulk,
    "idle": run_idle,
    "slow": run_slow,
}


async def main() -> None:
    """Do one job."""
    job = json.loads(sys.stdin.readline())
    target = Target(**{**job["target"], "layers": tuple(job["target"]["layers"])})
    tally = Tally()
    await RUNS[job["kind"]](Dialler(target, tally), tally, job)
    wall = time.perf_counter() - tally.begun
    result = {
        "calls": tally.calls,
        "failed": tally.failed,
        "events": tally.events,
        "bytes": tally.bytes,
        "latencies": sorted(tally.latencies)[:: max(1, len(tally.latencies) // 2000)],
        "wall": wall,
        "load_busy": (time.process_time() - tally.cpu_begun) / wall,
    }
    print("result " + json.dumps(result), flush=True)


def run() -> None:
    """The program."""
    use_large_blocks()
    uvloop.run(main())
