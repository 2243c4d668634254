"""What a request may cost in the proxy, counted in function calls: the same on every machine, and a number that only
falls.

From the plaintext of an inner session to the upstream's socket and back, with limits, counters and both log lines.
Raise the budget only with a reason. What the calls cost in time is measured by `bench/`.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from qanat.log import setup_logging
from qanat.net.memory import memory_pair
from qanat.net.process import is_compiled
from qanat.net.transport import Receiver, Transport
from qanat.proxy.certificate import load_certificate
from qanat.proxy.inner_http1 import HTTP1Inbound
from qanat.proxy.pool import Pool
from qanat.proxy.proxy import Proxy
from qanat.proxy.upstream import UpstreamConnection
from tests.support.calls import counted
from tests.support.proxy import DOMAIN, TestPKI, make_config
from tests.support.requirements import requirement

PER_REQUEST, PER_NEW_REQUEST = (48.0, 48.0) if is_compiled() else (224.0, 318.0)
"""Calls for a request of six fields and 1 KB, and an answer of two fields and 1 KB: with the same heads as before, and
with others. Compiled, only those count that still go through the interpreter, which cost the most."""

BODY = b"q" * 1024
REQUEST = (
    b"POST /mcp HTTP/1.1\r\nHost: echo.%b\r\nContent-Type: application/json\r\nMcp-Session-Id: 4711\r\n"
    b"Accept: application/json, text/event-stream\r\nAuthorization: Bearer abc\r\nContent-Length: %d\r\n\r\n%b"
) % (DOMAIN.encode(), len(BODY), BODY)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Answers(Receiver):
    """The upstream: the same answer to every request."""

    transport: Transport

    def __init__(self) -> None:
        self.received = 0
        self.answers = [ANSWER]

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if data.endswith(BODY):
            self.answers.append(self.answers.pop(0))
            self.transport.write(self.answers[0])


class OnePool(Pool):
    """A pool of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 1
        self.idle: list[UpstreamConnection] = []

    def take(self) -> UpstreamConnection | None:
        return self.idle.pop()

    async def connect(self) -> UpstreamConnection:
        raise AssertionError("there is only one connection")

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class Session(Receiver):
    """The caller."""

    def __init__(self) -> None:
        self.answers = 0
        self.more = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.answers += data.count(b"HTTP/1.1 200")
        self.more.set()


@dataclass
class Scene:
    """A proxy between a caller and an upstream, all in memory."""

    pki: TestPKI
    session: Session = field(default_factory=Session)

    def __post_init__(self) -> None:
        config = make_config(self.pki, {"echo": "http://127.0.0.1:1"})
        self.proxy = Proxy(config, load_certificate(self.pki.cert_file, self.pki.key_file))
        pool = OnePool()
        upstream = UpstreamConnection("127.0.0.1", pool.idle.append)
        self.upstream = Answers()
        memory_pair(upstream, self.upstream)
        pool.idle.append(upstream)
        self.proxy.routes["echo"].pool = pool
        inbound = HTTP1Inbound(self.proxy.forwarder, 60.0, f"echo.{DOMAIN}")
        self.caller, _ = memory_pair(self.session, inbound)

    async def ask(self, times: int, other: bytes = REQUEST) -> None:
        """So many requests, one after the other: the usual one and another in turns."""
        for wanted in range(self.session.answers + 1, self.session.answers + times + 1):
            self.caller.write(REQUEST if wanted % 2 else other)
            while self.session.answers < wanted:
                self.session.more.clear()
                await self.session.more.wait()


@asynccontextmanager
async def quiet_scene(pki: TestPKI) -> AsyncIterator[Scene]:
    """With logging as a command sets it up: nobody else listens."""
    before = logging.getLogger().handlers[:]
    setup_logging("info", stream=io.StringIO())
    scene = Scene(pki)
    try:
        yield scene
    finally:
        logging.getLogger().handlers[:] = before
        scene.caller.close()
        await scene.proxy.close()


async def calls_for_each(scene: Scene, other: bytes) -> float:
    """How many function calls a request costs, of two in turns."""
    await scene.ask(2, other)  # fills caches
    one = await counted(scene.ask(1, other))
    many = await counted(scene.ask(101, other))
    return (many - one) / 100


@requirement("proxy:budget")
@pytest.mark.usefixtures("unheard")
async def test_a_request_stays_within_its_budget(pki: TestPKI) -> None:
    async with quiet_scene(pki) as scene:
        assert await calls_for_each(scene, REQUEST) <= PER_REQUEST


@requirement("proxy:budget")
@pytest.mark.usefixtures("unheard")
async def test_a_request_with_another_head_stays_within_its_budget(pki: TestPKI) -> None:
    async with quiet_scene(pki) as scene:
        scene.upstream.answers.append(ANSWER.replace(b"OK", b"Fine"))
        assert await calls_for_each(scene, REQUEST.replace(b"4711", b"4712")) <= PER_NEW_REQUEST
