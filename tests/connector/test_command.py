"""`qanat connector` as a process: options, environment, signals, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.loopback_edge import TIMEOUT, LoopbackEdge, loopback_edge, tunnel_token
from tests.support.proxy import until
from tests.support.requirements import requirement
from tests.support.tunnel import Client, http_request
from tests.support.upstream_server import upstream_server

COMMAND = (sys.executable, "-c", "from qanat.cli import main; main()", "connector")
PLAIN = {"PATH": os.environ["PATH"], "NO_COLOR": "1", "TERM": "dumb"}


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit status and what was printed."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=PLAIN | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(TIMEOUT):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def environment_for(edge: LoopbackEdge, url: str) -> dict[str, str]:
    """The variables that cloudflared knows too."""
    return PLAIN | {
        "TUNNEL_TOKEN": tunnel_token(),
        "TUNNEL_EDGE": edge.address,
        "TUNNEL_CACERT": str(edge.cacert),
        "TUNNEL_TRANSPORT_PROTOCOL": "http2",
        "TUNNEL_URL": url,
        "TUNNEL_GRACE_PERIOD": "20s",
        "TUNNEL_METRICS": "127.0.0.1:0",
    }


@requirement("connector:command")
@pytest.mark.slow
async def test_cloudflareds_variables_run_a_connector_until_sigterm(tmp_path: Path) -> None:
    async with loopback_edge(tmp_path) as edge, upstream_server() as upstream:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "run", env=environment_for(edge, upstream.url), stderr=asyncio.subprocess.PIPE
        )
        try:
            connections = await edge.guests.wait(4)
            client = Client()
            connections[0].open_stream(http_request(path="/from-afar"), client)
            assert await client.receive(100) == b"GET /from-afar"
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(TIMEOUT):
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        lines = [line for line in errors.decode().splitlines() if "Registered tunnel connection" in line]
        assert len(lines) == 4
        for field in ("connIndex=", "connection=", "ip=127.0.0.1", "location=loopback", "protocol=http2"):
            assert field in lines[0]
        assert tunnel_token() not in errors.decode()


@requirement("connector:command")
@pytest.mark.slow
async def test_a_second_signal_does_not_wait_for_streams(tmp_path: Path) -> None:
    async with loopback_edge(tmp_path) as edge, upstream_server() as upstream:
        environment = environment_for(edge, upstream.url) | {"TUNNEL_GRACE_PERIOD": "3m"}
        process = await asyncio.create_subprocess_exec(*COMMAND, "--ha-connections", "1", env=environment)
        try:
            (connection,) = await edge.guests.wait(1)
            client = Client()
            connection.open_stream(http_request(path="/events"), client)
            await client.answer()
            process.send_signal(signal.SIGINT)
            await until(lambda: "draining" in edge.guests.told)
            assert process.returncode is None
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(TIMEOUT):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert await client.ended() is not None


@requirement("connector:config")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "code", "expected"),
    [
        ((), {}, 2, "a tunnel token is required"),
        (("--protocol", "h3"), {"TUNNEL_TOKEN": "x"}, 2, "protocol: "),
        ((), {"TUNNEL_TOKEN": "not-a-token"}, 1, "Provided Tunnel token is not valid."),
        (("--token-file", "/no/such/file"), {}, 1, "token file /no/such/file: no such file or directory"),
        (("--cacert", "/etc/hostname"), {"TUNNEL_TOKEN": tunnel_token()}, 1, "CA file /etc/hostname: no usable"),
        (("--no-such-option",), {}, 2, "No such option"),
    ],
)
async def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...], environment: dict[str, str], code: int, expected: str
) -> None:
    status, output = await run(*arguments, **environment)
    assert status == code
    assert expected in output
    assert "Traceback" not in output
