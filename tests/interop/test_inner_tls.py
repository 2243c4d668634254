"""An inner TLS session from the edge's side through each connector to our proxy: nobody on the way can read it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from qanat.net.dial import start_tls
from qanat.net.transport import Receiver
from qanat.net.websocket import WebSocketClient
from tests.interop.conftest import CONNECTORS, start_connector
from tests.support.loopback_edge import TIMEOUT, loopback_edge
from tests.support.proxy import DOMAIN, Inner, make_pki, proxy_running, upstream_running
from tests.support.requirements import requirement
from tests.support.tunnel import Client, websocket_request


@requirement("connector:inner-tls")
@pytest.mark.parametrize(("connector", "protocol"), CONNECTORS)
async def test_requests_travel_inside_an_inner_tls_session(connector: str, protocol: str, tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_running())
        proxy = await stack.enter_async_context(proxy_running(pki, {"echo": upstream.url}))
        edge = await stack.enter_async_context(loopback_edge(tmp_path))
        url = "http://{}:{}".format(*proxy.address)
        await start_connector(stack, connector, protocol, edge, url, 1)
        (connection,) = await edge.guests.wait(1)
        client = Client()
        connection.open_stream(websocket_request(), client)
        assert (await client.answer()).status == 101
        reader = asyncio.StreamReader()
        above = asyncio.StreamReaderProtocol(reader)

        def below(layer: Receiver) -> None:
            websocket = WebSocketClient(layer)
            client.transport.set_protocol(websocket)
            websocket.connection_made(client.transport)

        tls = await start_tls(below, above, pki.context(), f"echo.{DOMAIN}", timeout=TIMEOUT)
        inner = Inner(reader, asyncio.StreamWriter(cast(Any, tls), above, reader, asyncio.get_running_loop()), tls, tls)
        for number in range(3):  # one session carries many requests
            answer = await inner.ask(f"POST /mcp?n={number} HTTP/1.1\nHost: echo.{DOMAIN}\nContent-Length: 5", b"hello")
            assert answer.status == 200
            assert answer.body == b"POST /mcp?n=%d hello" % number
        assert inner.tls.tls.version() == "TLSv1.3"
        client.transport.abort()
