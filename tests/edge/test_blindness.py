"""The edge relays and cannot see: canaries travel both ways, and no trace of them is left in it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from qanat.api.internal import Event, EventBatch
from qanat.client import Edge, dial, outer_context
from qanat.connector.config import ConnectorConfig
from qanat.connector.server import serve as serve_connector
from qanat.control.operations.context import Actor
from qanat.control.operations.pages import PageRequest
from qanat.control.server import ControlServer
from qanat.control.server import serve as serve_control
from qanat.wire.token import TunnelToken, parse_token
from tests.support.asgi import serve_asgi
from tests.support.blindness import Capture, hits, memory_hits
from tests.support.control import EDGE_KEY, control_config
from tests.support.edge import BASE, CLIENT_NAME, OperatorFiles
from tests.support.edge_control import ask
from tests.support.edge_processes import edge_processes
from tests.support.path import proxy_settings, write_files
from tests.support.pki import throwaway_ca
from tests.support.ports import free_port
from tests.support.postgres import find_programs, running_postgres
from tests.support.redis import redis_server
from tests.support.requirements import requirement

CALLS = 1_000
SESSIONS = 4
ASKED, ANSWERED, PLANTED = (secrets.token_hex(12).encode() for _ in range(3))
"""Every canary of a request, and of a result, begins with these; the third is put into the database on purpose."""


@asynccontextmanager
async def proxy_process(folder: Path, domain: str, upstream: str) -> AsyncIterator[tuple[int, int]]:
    """`qanat proxy` with one route; yields its process id and port."""
    port = free_port()
    settings = proxy_settings(folder, domain, {"tickets": upstream}, listen=f"127.0.0.1:{port}")
    path = folder / "proxy.yaml"
    path.write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qanat", "proxy", "--config", str(path)), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(40):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    await writer.wait_closed()
                    break
        yield process.pid, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answer(request: Request) -> JSONResponse:
    body = await request.json()
    result = {"content": [{"type": "text", "text": f"{ANSWERED.decode()}-{body['id']}-{secrets.token_hex(8)}"}]}
    return JSONResponse({"jsonrpc": "2.0", "id": body["id"], "result": result})


async def call(edge: Edge, host: str, ca: x509.Certificate, numbers: range) -> None:
    """A session that makes one call for each number, each with fresh canaries in every place that can hold one."""
    stream = await dial(edge, host, [ca], 20.0)
    for number in numbers:
        canary = f"{ASKED.decode()}-{number}-{secrets.token_hex(8)}"
        arguments = {"name": "search", "arguments": {"query": canary}}
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": arguments}).encode()
        head = (
            f"POST /mcp/{canary} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {canary}\r\nX-Canary: {canary}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await stream.write(head.encode() + body, 20.0)
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}}"):
            piece = await stream.read(65536, 20.0)
            assert piece, received
            received += piece
        assert b" 200 " in received.split(b"\r\n")[0]
        assert ANSWERED in received
    await stream.aclose()


@dataclass
class Database:
    """What the control plane writes to, and every byte of it."""

    settings: dict[str, str]
    files: Callable[[], Sequence[Path]]

    def contents(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.files())


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        yield Database({}, lambda: list((tmp_path / "control").glob("control.db*")))
        return
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres(programs) as server:

        def files() -> list[Path]:
            server.write_out()
            return [path for path in server.data.rglob("*") if path.is_file()]

        yield Database({"database_url": server.new_database()}, files)


async def new_tunnel(control: ControlServer, certificate: bytes) -> tuple[str, TunnelToken]:
    """Domain and token of a tunnel with one registered CA."""
    tunnel = await ask(control, "")
    path = f"/{tunnel['id']}"
    await ask(control, f"{path}/certificates", {"ca_certificate_pem": certificate.decode()})
    return tunnel["domain"], parse_token((await ask(control, f"{path}/reveal_token"))["tunnel_token"])


async def plant(control: ControlServer) -> None:
    """An event as an edge would send it that had seen too much."""
    told = Event(time=datetime.now(UTC), kind="client_refused", node="n", fields={"host": PLANTED.decode()})
    await control.operations.events.record(EventBatch(events=(told,)))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(os.geteuid() != 0, reason="reads other processes' memory and raw packets: needs root")
@requirement("edge:blindness")
async def test_nothing_of_a_payload_is_left_in_an_edge(
    files: OperatorFiles, database: Database, tmp_path: Path
) -> None:
    ca = throwaway_ca()
    config = control_config(tmp_path / "control", domain_base=BASE, shutdown_timeout="1s", **database.settings)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(tmp_path))
        control = await stack.enter_async_context(serve_control(config, make_label=lambda: "a1b2c3d4"))
        domain, token = await new_tunnel(control, ca.certificate_pem)
        host = f"tickets.{domain}"
        write_files(tmp_path / "proxy", ca, domain)
        (tmp_path / "token").write_text(token.encode())
        upstream = await stack.enter_async_context(
            serve_asgi(Starlette(routes=[Route("/mcp/{rest}", answer, methods=["POST"])]))
        )
        proxy_pid, proxy_port = await stack.enter_async_context(proxy_process(tmp_path / "proxy", domain, upstream))
        settings = {
            "metrics_addr": "127.0.0.1:0",
            "log_level": "debug",
            "traffic_interval": "1s",
            "client_organizations": [{"san": CLIENT_NAME, "organizations": "*"}],
        }
        nodes = await stack.enter_async_context(
            edge_processes(2, tmp_path, files, control.url, redis.url, key=EDGE_KEY, **settings)
        )
        config_of_connector = ConnectorConfig(
            token_file=tmp_path / "token",
            edge=("{}:{}".format(*nodes[1].connector_address),),
            cacert=files.path("connector-listener-ca"),
            protocol="http2",
            url=f"http://127.0.0.1:{proxy_port}",
        )
        connector = await stack.enter_async_context(serve_connector(config_of_connector))
        async with asyncio.timeout(40):
            await connector.wait_ready()
        certificate, key = files.path(CLIENT_NAME), files.path(f"{CLIENT_NAME}-key")
        context: ssl.SSLContext = outer_context(certificate, key, files.path("client-listener-ca"))
        doors = [Edge(*node.client_address, context) for node in nodes]

        ports = [address[1] for node in nodes for address in (node.connector_address, node.client_address)]
        ports += [int(node.log_line("cluster joined")["port"]) for node in nodes]
        ports += [control.port, redis.port]
        async with Capture(ports) as capture:
            share = CALLS // SESSIONS
            work = [
                call(doors[turn % 2], host, ca.certificate, range(turn * share, (turn + 1) * share))
                for turn in range(SESSIONS)
            ]
            await asyncio.gather(*work)
        canaries = [ASKED, ANSWERED]

        seen, _ = await asyncio.to_thread(memory_hits, proxy_pid, canaries)
        assert seen == sorted(canaries), "the search finds a canary where there is one"
        for node in nodes:
            look = asyncio.to_thread(memory_hits, node.pid, canaries)
            (seen, size), _ = await asyncio.gather(look, call(doors[0], host, ca.certificate, range(100)))
            assert size > 10_000_000
            assert seen == []
            assert hits(node.raw_log, canaries) == []
            port = int(node.log_line("metrics listening")["port"])
            metrics = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/metrics")
            assert b"qanat_edge_streams_opened_total" in metrics
            assert hits(metrics, canaries) == []
        assert capture.packets > CALLS
        assert hits(bytes(capture.data), canaries) == []
        assert hits(await _dump(redis.url), canaries) == []

        await until_told(control, "tunnel_first_use", "connector_registered")
        await plant(control)
        stored = await asyncio.to_thread(database.contents)
        assert hits(stored, [PLANTED]) == [PLANTED], "the search sees what is in the database"
        assert hits(stored, canaries) == []


async def until_told(control: ControlServer, *kinds: str) -> None:
    """Wait for events of all these kinds in the store."""
    actor = Actor(id="local", kind="local", organization_id=control.bootstrapped.organization_id)
    async with asyncio.timeout(40):
        while True:
            page = await control.operations.events.list_page(actor, PageRequest(limit=100))
            if {*kinds} <= {event.kind for event in page.data}:
                return
            await asyncio.sleep(0.05)


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        data: bytes = response.read()
    return data


async def _dump(url: str) -> bytes:
    """Every key and value of a Redis."""
    async with Redis.from_url(url) as client:
        keys = [key async for key in client.scan_iter()]
        assert keys
        return repr([(key, await client.get(key)) for key in keys]).encode()
