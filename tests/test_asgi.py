"""Applications on sockets: up when the block begins, and nothing of them left when it ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from qanat import asgi
from qanat.errors import ConfigInvalid
from tests.support.asgi import PEMFiles, serve_asgi
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.proxy import write_pair

SOON = 20.0


class Slow:
    """Answers once it is let go on, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.asked, self.go_on, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.app = Starlette(routes=[Route("/", self.answer)])

    async def answer(self, _: Request) -> Response:
        self.asked.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return PlainTextResponse("done")


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def test_a_request_under_way_is_answered_before_the_block_ends() -> None:
    slow, closing = Slow(), asyncio.Event()
    listener = asgi.bind("127.0.0.1:0")
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=SOON) as http:
        async with asgi.serving(slow.app, listener, grace=SOON, closing=closing):
            asking = asyncio.create_task(http.get("/"))
            await asyncio.wait_for(slow.asked.wait(), SOON)
            releasing = asyncio.create_task(_after(closing, slow.go_on))
        assert (await asking).text == "done"
        await releasing


async def _after(first: asyncio.Event, then: asyncio.Event) -> None:
    await first.wait()
    then.set()


async def test_a_request_that_outlasts_the_grace_is_cancelled_and_its_connection_cut() -> None:
    slow = Slow()
    listener = asgi.bind("127.0.0.1:0")
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=SOON) as http:
        async with asgi.serving(slow.app, listener):
            asking = asyncio.create_task(http.get("/"))
            await asyncio.wait_for(slow.asked.wait(), SOON)
        assert slow.cancelled.is_set()
        with pytest.raises(httpx2.RemoteProtocolError):
            await asking


async def test_an_answer_that_nobody_reads_does_not_keep_the_block_open() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async def pour(_: Request) -> Response:
        return StreamingResponse(endless())

    listener = asgi.bind("127.0.0.1:0")
    async with asyncio.timeout(SOON), asgi.serving(Starlette(routes=[Route("/", pour)]), listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


async def test_an_idle_connection_is_closed_with_the_block() -> None:
    listener = asgi.bind("127.0.0.1:0")
    async with asyncio.timeout(SOON):
        async with asgi.serving(Starlette(routes=[Route("/", hello)]), listener, grace=SOON):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", _port_of(writer))
    writer.close()


def _port_of(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("peername")[1])


async def test_a_tls_peer_that_does_not_say_goodbye_is_cut(tmp_path: Path) -> None:
    ca = throwaway_ca()
    files = PEMFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    write_pair(throwaway_server(ca, "example.net"), files.cert_file, files.key_file)
    listener = asgi.bind("127.0.0.1:0")
    context = ssl.create_default_context(cadata=ca.certificate_pem.decode())
    async with asyncio.timeout(SOON):
        async with asgi.serving(Starlette(routes=[Route("/", hello)]), listener, tls=files):
            reader, writer = await asyncio.open_connection(
                *listener.getsockname(), ssl=context, server_hostname="x.example.net"
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            await reader.readuntil(b"hello")
            cast(asyncio.Transport, writer.transport).pause_reading()  # a peer that hangs: it never sees our goodbye
    writer.transport.abort()


async def test_certificate_files_of_no_use_are_named_and_leave_no_listener(tmp_path: Path) -> None:
    files = PEMFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    for said in (
        "tls.cert_file: .*tls.crt: No such file",
        "tls.key_file: .*tls.key: No such file",
        "are no certificate",
    ):
        listener = asgi.bind("127.0.0.1:0")
        with pytest.raises(ConfigInvalid, match=said):
            async with asgi.serving(Starlette(), listener, tls=files):
                raise AssertionError("it is not up")
        assert listener.fileno() == -1
        (files.key_file if files.cert_file.exists() else files.cert_file).write_text("no PEM")


async def test_answers_have_a_date_and_do_not_name_the_server() -> None:
    async with serve_asgi(Starlette(routes=[Route("/", hello)])) as url, httpx2.AsyncClient() as http:
        answer = await http.get(url)
    assert "date" in answer.headers
    assert "server" not in answer.headers


async def test_an_application_that_cannot_start_says_so_and_leaves_no_listener() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await send({"type": "lifespan.startup.failed", "message": "no"})

    listener = asgi.bind("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="did not start"):
        async with asgi.serving(app, listener, lifespan="on"):
            raise AssertionError("it is not up")
    assert listener.fileno() == -1


@pytest.mark.parametrize("address", ["8080", "127.0.0.1", "127.0.0.1:70000", "127.0.0.1:x"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        asgi.bind(address)
