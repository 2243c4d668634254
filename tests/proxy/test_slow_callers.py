"""A caller over HTTP/1.1 that sends requests and does not read: what is held for it is bounded, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qanat.net.layer import HIGH_WATER
from qanat.net.memory import MemoryTransport, memory_pair
from qanat.net.transport import Receiver
from qanat.proxy.certificate import load_certificate
from qanat.proxy.inner_http1 import MAX_PIPELINED, HTTP1Inbound
from qanat.proxy.proxy import Proxy
from tests.support.proxy import DOMAIN, TestPKI, UpstreamPeer, make_config, proxy_running, upstream_running

UNKNOWN = b"GET / HTTP/1.1\r\nHost: nope.%b\r\n\r\n" % DOMAIN.encode()
PIECE = UNKNOWN * 100
HOST = f"Host: echo.{DOMAIN}"
SMALL, BIG = 60_000, 30_000_000


class Caller(Receiver):
    """Counts answers."""

    def __init__(self) -> None:
        self.answers = 0

    def data_received(self, data: bytes) -> None:
        self.answers += data.count(b"HTTP/1.1 502 ")


@pytest.fixture
async def proxy(pki: TestPKI) -> AsyncIterator[Proxy]:
    made = Proxy(make_config(pki, {"echo": "http://127.0.0.1:1"}), load_certificate(pki.cert_file, pki.key_file))
    yield made
    await made.close()


async def settle() -> None:
    """So many turns that whoever goes on without waiting for anybody is done."""
    for _ in range(20_000):
        await asyncio.sleep(0)


def connect(proxy: Proxy, caller: Caller) -> tuple[MemoryTransport, MemoryTransport]:
    return memory_pair(caller, HTTP1Inbound(proxy.forwarder, 60.0, f"echo.{DOMAIN}"))


async def test_answers_that_nobody_reads_stop_the_requests_behind_them(proxy: Proxy) -> None:
    caller = Caller()
    ours, theirs = connect(proxy, caller)
    ours.pause_reading()
    for _ in range(100):
        ours.write(PIECE)
        await asyncio.sleep(0)
    await settle()
    assert HIGH_WATER <= theirs.get_write_buffer_size() < HIGH_WATER + 1024
    assert ours.get_write_buffer_size() > 100 * len(PIECE) - MAX_PIPELINED - HIGH_WATER
    ours.resume_reading()
    await settle()
    assert caller.answers == 100 * 100
    ours.abort()


async def test_a_request_that_comes_while_the_caller_reads_nothing_is_answered_and_the_next_one_waits(
    proxy: Proxy,
) -> None:
    caller = Caller()
    inbound = HTTP1Inbound(proxy.forwarder, 60.0)
    ours, _ = memory_pair(caller, inbound)
    inbound.pause_writing()
    for _ in range(3):
        ours.write(UNKNOWN)
        await settle()
    assert caller.answers == 1
    inbound.resume_writing()
    await settle()
    assert caller.answers == 3
    ours.abort()


async def test_a_large_answer_behind_small_ones_waits_in_the_upstream(pki: TestPKI) -> None:
    sent = 0

    async def script(peer: UpstreamPeer) -> None:
        nonlocal sent
        while True:
            size = BIG if (await peer.request()).target == "/big" else SMALL
            peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
            for _ in range(0, size, SMALL):
                peer.writer.write(b"x" * SMALL)
                await peer.writer.drain()
                sent += SMALL

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.raw.pause_reading()
        for target in ["/small"] * 120 + ["/big"]:
            inner.send(f"GET {target} HTTP/1.1\n{HOST}")
        before = -1
        while before != sent:
            before = sent
            await settle()
        assert sent < 120 * SMALL + BIG / 2
        inner.raw.resume_reading()
        for size in [SMALL] * 120 + [BIG]:
            assert len((await inner.answer()).body) == size


async def test_what_is_wrong_with_a_body_after_its_answer_gets_no_second_answer(pki: TestPKI) -> None:
    async def script(peer: UpstreamPeer) -> None:
        await peer.head()
        peer.answer(b"early")
        await peer.reader.read()

    async with upstream_running(script) as upstream, proxy_running(pki, {"echo": upstream.url}) as end:
        inner = await end.connect()
        inner.send(f"POST / HTTP/1.1\n{HOST}\nTransfer-Encoding: chunked", b"5\r\nhello\r\n")
        assert (await inner.answer("POST")).body == b"early"
        inner.writer.write(b"zz\r\n")
        assert await inner.closed() == b""
