"""A client's own node dies with calls under way: each ends in an error that names the hop and may be retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from qanat.client import TunnelLost, TunnelTransport
from qanat.gateway.calls import Failure, failure_of_result
from qanat.gateway.config import Limits
from qanat.gateway.mcp_link import Link
from tests.support.asgi import serve_asgi
from tests.support.edge import CLIENT_NAME, TIMEOUT, DictDirectory, OperatorFiles
from tests.support.edge_processes import EdgeProcess, directory_over_http, edge_processes
from tests.support.mcp_server import Bench
from tests.support.path import Parts, Served, tunnel_running
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow
MAPPING = [{"san": CLIENT_NAME, "organizations": ["org_a"]}]


class Upstream:
    """Answers `/begun` with the first half of an answer, and `/silent` with nothing."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        paths = ("/begun", "/silent")
        self.app = Starlette(routes=[Route(path, self.hang, methods=["GET", "POST"]) for path in paths])

    async def hang(self, request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            self.waiting.set()
            await asyncio.Event().wait()

        if request.url.path == "/silent":
            self.waiting.set()
            await asyncio.Event().wait()
        return StreamingResponse(pieces())


@asynccontextmanager
async def way(
    files: OperatorFiles, directory: DictDirectory, folder: Path, upstream: str
) -> AsyncIterator[tuple[EdgeProcess, Served, TunnelTransport]]:
    """A tunnel to `upstream` through an edge that is a process of its own, and a client's transport."""
    async with (
        directory_over_http(directory) as control,
        edge_processes(1, folder, files, control, None, client_organizations=MAPPING) as (node,),
        tunnel_running(Parts(files, directory, node), folder / "a", {"tickets": upstream}) as served,
    ):

        async def anchors(_: str) -> Sequence[x509.Certificate]:
            return [served.ca.certificate]

        async with TunnelTransport(Parts(files, directory, node).edge, anchors) as transport:
            yield node, served, transport


@requirement("edge:in-flight")
@pytest.mark.parametrize("path", ["/begun", "/silent"])
async def test_a_call_under_way_ends_in_a_typed_error(
    files: OperatorFiles, directory: DictDirectory, tmp_path: Path, path: str
) -> None:
    upstream = Upstream()
    async with (
        serve_asgi(upstream.app) as url,
        way(files, directory, tmp_path, url) as (node, served, transport),
        httpx2.AsyncClient(transport=transport, timeout=TIMEOUT) as http,
    ):
        call = asyncio.create_task(http.post(served.url("tickets", path)))
        await asyncio.wait_for(upstream.waiting.wait(), TIMEOUT)
        node.kill()
        with pytest.raises(TunnelLost) as lost:
            await asyncio.wait_for(call, TIMEOUT)
    assert (lost.value.reason, lost.value.hop, lost.value.may_retry) == ("connection_lost", "edge", True)
    assert isinstance(lost.value, httpx2.ReadError), "who knows nothing of tunnels knows this"


@requirement("edge:in-flight")
async def test_a_tool_call_of_the_gateway_ends_with_the_hop(
    files: OperatorFiles, directory: DictDirectory, tmp_path: Path
) -> None:
    bench = Bench()
    async with (
        bench.running() as url,
        way(files, directory, tmp_path, url) as (node, served, transport),
    ):

        @asynccontextmanager
        async def source() -> AsyncIterator[httpx2.AsyncBaseTransport]:
            yield transport

        link = Link(served.url("tickets"), None, source, Limits())
        await link.open()
        call = asyncio.create_task(link.call("hang", {}))
        await asyncio.wait_for(bench.waiting.wait(), TIMEOUT)
        node.kill()
        result = await asyncio.wait_for(call, TIMEOUT)
        await link.close()
    assert result.is_error
    assert "connection_lost, hop: edge" in str(result)
    assert failure_of_result(link, result) == Failure("connection_lost", "edge")
