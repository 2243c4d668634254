"""The upstream of every chain: an HTTP server that does next to nothing, so that the chain is what is measured.

`POST /call` answers 1 KB of JSON; `GET /events?n=&every=` streams n server-sent events; `GET /bulk?bytes=` sends,
`POST /sink` takes. `run` takes the port as its only argument.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from urllib.parse import parse_qs

import httptools
import uvloop

from qanat.net.transport import Transport, as_protocol

CALL_BODY = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"' + b"x" * 940 + b'"}]}}'
CALL = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(CALL_BODY)) + CALL_BODY
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"b" * 65536


class Upstream:
    """One connection; a `Receiver` by shape only: it is compiled."""

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._url = b""
        self._received = 0
        self._ended = True
        self._known_size, self._known_end = 0, b""
        """A call that came in one piece. One like it need not be parsed, so that little is spent here."""

    def data_received(self, data: bytes) -> None:
        if len(data) == self._known_size and self._ended and self._is_known(data):
            self._transport.write(CALL)
            return
        is_whole = self._ended
        self._parser.feed_data(data)
        if is_whole and self._ended and self._url == b"/call":
            self._known_size, self._known_end = len(data), data[-self._received :]

    def _is_known(self, data: bytes) -> bool:
        return data.startswith(b"POST /call ") and data.endswith(self._known_end)

    def eof_received(self) -> None:
        return

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def on_message_begin(self) -> None:
        self._url, self._received, self._ended = b"", 0, False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, data: bytes) -> None:
        self._received += len(data)

    def on_message_complete(self) -> None:
        self._ended = True
        if self._url == b"/call":
            self._transport.write(CALL)
            return
        path, _, query = self._url.partition(b"?")
        arguments = {name: int(value[0]) for name, value in parse_qs(query.decode()).items()}
        if path == b"/sink":
            body = b"%d" % self._received
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        elif path == b"/bulk":
            self._task = asyncio.create_task(self._send_bulk(arguments["bytes"]))
        else:
            self._task = asyncio.create_task(self._send_events(arguments["n"], arguments["every"] / 1000))

    async def _send_bulk(self, size: int) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while size > 0:
            await self._writable.wait()
            self._transport.write(CHUNK[:size])
            size -= len(CHUNK)

    async def _send_events(self, count: int, every: float) -> None:
        self._transport.write(EVENTS)
        for number in range(count):
            await asyncio.sleep(every)
            await self._writable.wait()
            event = b'event: message\ndata: {"n":%d,"text":"%b"}\n\n' % (number, b"y" * 180)
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: as_protocol(Upstream()), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await stop.wait()
    server.close()


def run() -> None:
    """The program."""
    uvloop.run(main(int(sys.argv[1])))
