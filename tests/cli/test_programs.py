"""`qanat forward` and `qanat gateway` as their users run them: programs, with files and signals."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from anthropic import AsyncAnthropic
from mcp import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from qanat.api.internal import Change, Principal
from tests.support.answers import first_text, last_text
from tests.support.asgi import serve_asgi
from tests.support.edge import CLIENT_NAME
from tests.support.gateway import KEY, Wiki, principal, wiki_server
from tests.support.path import PathParts, Served, edge_running, tunnel_running
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow
TIMEOUT = 50.0


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[Process]:
    """`qanat …` as a process of its own; asked to stop at the end, and killed if it does not."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "qanat", *arguments, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def stopped(process: Process) -> int:
    """The exit code after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(process.wait(), TIMEOUT)


@asynccontextmanager
async def tunnel(folder: Path) -> AsyncIterator[tuple[PathParts, Served, Wiki]]:
    async with AsyncExitStack() as stack:
        wiki = await stack.enter_async_context(wiki_server())
        parts = await stack.enter_async_context(edge_running(folder, ["org_a"]))
        routes = {"wiki": wiki.url.removesuffix("/mcp")}
        served = await stack.enter_async_context(tunnel_running(parts, folder / "a", routes))
        yield parts, served, wiki


@requirement("client:5")
async def test_the_forward_command_opens_a_port_and_ends_on_a_signal(tmp_path: Path) -> None:
    async with tunnel(tmp_path) as (parts, served, _):
        host, port = parts.server.client_address
        name = f"wiki.{served.record.domain}"
        files = {
            "--edge": f"{host}:{port}",
            "--cert": parts.files.path(CLIENT_NAME),
            "--key": parts.files.path(f"{CLIENT_NAME}-key"),
            "--ca": served.folder / "ca.pem",
            "--edge-ca": parts.files.path("client-listener-ca"),
        }
        options = [str(part) for pair in files.items() for part in pair]
        async with program("forward", name, *options) as process:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), TIMEOUT)).decode()
            url, arrow, target = line.split()
            assert (arrow, target) == ("->", f"https://{name}")
            async with Client(f"{url}/mcp") as mcp:
                result = await mcp.call_tool("search", {"q": "x"})
            assert first_text(result) == "found x"
            assert await stopped(process) == 0


async def test_the_forward_command_says_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.pem")
    files = ["--cert", absent, "--key", absent, "--ca", absent]
    for edge, code in (("127.0.0.1:1", 1), ("nowhere", 2)):
        async with program("forward", "wiki.a.example", "--edge", edge, *files) as process:
            _, said = await asyncio.wait_for(process.communicate(), TIMEOUT)
            assert process.returncode == code
            assert b"Traceback" not in said


def control_app(known: Principal) -> Starlette:
    """The control plane's internal paths, as far as a gateway without tunnels asks."""

    async def authenticate(request: Request) -> Response:
        fine = (await request.json())["credential"] == KEY and request.headers["authorization"] == "Bearer service"
        return Response(known.model_dump_json()) if fine else Response(status_code=401)

    async def changes(_: Request) -> Response:
        async def beat() -> AsyncIterator[str]:
            yield Change(cursor=1, kind="heartbeat").model_dump_json() + "\n"
            await asyncio.Event().wait()

        return StreamingResponse(beat())

    async def accept(_: Request) -> Response:
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/internal/v1/authenticate", authenticate, methods=["POST"]),
            Route("/internal/v1/changes", changes),
            Route("/internal/v1/events", accept, methods=["POST"]),
        ]
    )


@requirement("gateway:7")
async def test_the_gateway_command_serves_what_its_file_says_and_ends_on_a_signal(tmp_path: Path) -> None:
    (tmp_path / "service-key").write_text("service\n")
    async with serve_asgi(control_app(principal())) as control, wiki_server() as wiki:
        settings = {
            "listen": "127.0.0.1:0",
            "control": {"url": control, "service_key_file": str(tmp_path / "service-key")},
            "direct_egress": {
                "mode": "allow_list",
                "hosts": ["127.0.0.1"],
                "http_hosts": ["127.0.0.1"],
                "allowed_ips": ["127.0.0.0/8"],
            },
            "shutdown_timeout": "1s",
        }
        (tmp_path / "gateway.yaml").write_text(json.dumps(settings))  # JSON is YAML
        async with program("gateway", "--config", str(tmp_path / "gateway.yaml")) as process:
            url = f"http://{await listening(process)}"
            async with AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0, timeout=TIMEOUT) as client:
                message = await client.beta.messages.create(
                    model="qanat-demo",
                    max_tokens=1000,
                    messages=[{"role": "user", "content": "Search the wiki for 'qanats'"}],
                    mcp_servers=[{"type": "url", "url": wiki.url, "name": "wiki"}],
                    tools=[{"type": "mcp_toolset", "mcp_server_name": "wiki"}],
                    betas=["mcp-client-2025-11-20"],
                )
            assert "found qanats" in last_text(message)
            assert await stopped(process) == 0


async def listening(process: Process) -> str:
    """The address a part logs once it listens."""
    assert process.stderr is not None
    while line := await asyncio.wait_for(process.stderr.readline(), TIMEOUT):
        entry = json.loads(line)
        if "gateway listening" in entry.values():
            return str(entry["address"])
    raise AssertionError("the gateway never listened")


async def test_the_gateway_command_names_the_key_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("control: {url: http://127.0.0.1:1, service_key: x}\npings: 3\n")
    async with program("gateway", "--config", str(tmp_path / "gateway.yaml")) as process:
        _, said = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert (process.returncode, b"pings" in said) == (2, True)
