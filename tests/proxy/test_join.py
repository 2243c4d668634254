"""`qanat join`: connector and proxy in one process, told by one file or by flags."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from qanat.cli.join import _settings
from qanat.client import open_tunnel
from qanat.errors import ConfigInvalid
from qanat.stack import Stack, join
from tests.support.proxy import WAIT, TestPKI

FLAGS = {"tickets": "http://10.0.0.5:8080"}


def data_folder(pki: TestPKI, folder: Path) -> Path:
    """What `qanat setup` leaves behind."""
    (folder / "tls.crt").write_bytes(pki.cert_file.read_bytes())
    (folder / "tls.key").write_bytes(pki.key_file.read_bytes())
    (folder / "tunnel-domain").write_text("t.example")
    (folder / "tunnel-token").write_text("secret")
    return folder


def test_a_token_file_and_a_route_are_enough(pki: TestPKI, tmp_path: Path) -> None:
    folder = data_folder(pki, tmp_path)
    proxy, connector = _settings(None, {"token_file": folder / "tunnel-token"}, {}, FLAGS, None, folder)
    assert str(proxy.routes["tickets"].upstream) == "http://10.0.0.5:8080"
    assert proxy.tunnel_domain == "t.example"
    assert proxy.tls.cert_file == folder / "tls.crt"
    assert connector.token_file == folder / "tunnel-token"


def test_one_file_holds_both_parts_and_flags_win(pki: TestPKI, tmp_path: Path) -> None:
    folder = data_folder(pki, tmp_path)
    file = tmp_path / "join.yaml"
    settings = {"routes": {"wiki": "http://10.0.0.6:1"}, "connector": {"protocol": "quic", "edge": ["a:1"]}}
    file.write_text(yaml.safe_dump(settings))
    proxy, connector = _settings(file, {"protocol": "http2"}, {"log_level": "debug"}, FLAGS, ["10.0.0.0/24"], folder)
    assert set(proxy.routes) == {"wiki", "tickets"}
    assert proxy.log_level == "debug"
    assert proxy.upstream.guard.describe() == "10.0.0.0/24"
    assert (connector.protocol, connector.edge) == ("http2", ("a:1",))
    assert connector.token_file == folder / "tunnel-token"


def test_a_wrong_key_is_named_in_either_part(pki: TestPKI, tmp_path: Path) -> None:
    folder = data_folder(pki, tmp_path)
    file = tmp_path / "join.yaml"
    wrong: list[dict[str, object]] = [{"rotes": {}}, {"connector": {"protocoll": "quic"}}]
    for settings in wrong:
        file.write_text(yaml.safe_dump({"routes": FLAGS, **settings}))
        with pytest.raises(ConfigInvalid, match=r'unknown field "(rotes|protocoll)"'):
            _settings(file, {}, {}, {}, None, folder)


@pytest.mark.parametrize("key", ["connector", "routes", "upstream"])
@pytest.mark.parametrize("value", [5, "x", ["a"]])
def test_a_section_that_is_none_is_named(pki: TestPKI, tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "join.yaml"
    file.write_text(yaml.safe_dump({key: value}))
    with pytest.raises(ConfigInvalid, match=f"{key}: must hold keys and values"):
        _settings(file, {}, {}, FLAGS, ["10.0.0.0/24"], data_folder(pki, tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=f"open {tmp_path}/none: no such directory"):
        _settings(None, {}, {}, FLAGS, None, tmp_path / "none")


@contextlib.asynccontextmanager
async def joined(stack: Stack, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, once a connection is registered."""
    command = [sys.executable, "-m", "qanat", "join", *arguments]
    environment = {**os.environ, **stack.environment}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    seen = b""
    try:
        async with asyncio.timeout(WAIT):
            while b"Registered tunnel connection" not in seen:
                line = await process.stderr.readline()
                assert line, seen
                seen += line
        assert b"route configured" in seen
        reading = asyncio.create_task(process.stderr.read())
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    log = seen + await reading
    assert (stack.customer / "tunnel-token").read_bytes().strip() not in log


@pytest.mark.slow
async def test_a_call_reaches_a_private_server_through_one_process_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    async with Stack(tmp_path) as stack:
        await stack.stop_part("connector")
        await stack.stop_part("proxy")
        token, route = stack.customer / "tunnel-token", f"tickets={stack.samples.urls['tickets']}"
        async with joined(stack, "--token-file", str(token), "--route", route, "--allow-ip", "127.0.0.0/8") as process:
            async with (
                open_tunnel(
                    join(stack.edge.client_address),
                    certificate=stack.pki / "gateway.pem",
                    key=stack.pki / "gateway-key.pem",
                    ca=stack.customer / "ca.crt",
                    edge_ca=stack.pki / "client-listener-ca.pem",
                ) as http,
                Client(streamable_http_client(stack.url("tickets"), http_client=http)) as client,
            ):
                listed = await client.call_tool("list_tickets", {"status": "open"})
                assert not listed.is_error
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WAIT * 2):
                assert await process.wait() == 0
