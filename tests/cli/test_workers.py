"""`qanat join --workers N`: a parent and its workers as real processes, at a real edge."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from typer.testing import CliRunner

from qanat.cli.join import app
from qanat.cli.workers import for_worker
from qanat.config import validate
from qanat.connector.config import ConnectorConfig
from qanat.errors import ConfigInvalid
from qanat.net.workers import VARIABLE
from qanat.proxy.config import ProxyConfig
from tests.support.path import proxy_settings
from tests.support.programs import Program
from tests.support.proxy import UpstreamPeer, until, upstream_running
from tests.support.requirements import requirement
from tests.support.whole_tunnel import WholeTunnel, unserved_tunnel

REGISTERED = "Registered tunnel connection"
SESSIONS = 8


@asynccontextmanager
async def joined(
    folder: Path, upstream: str, *options: str, **section: Any
) -> AsyncIterator[tuple[WholeTunnel, Program]]:
    """Two workers of `join`, just started; `section` goes into the connector's."""
    async with unserved_tunnel(folder) as whole:
        write_settings(whole, {"wiki": upstream}, **section)
        program = Program()
        await program.run("join", "--config", str(settings_file(whole)), "--workers", "2", *options)
        try:
            yield whole, program
        finally:
            await program.close()


def settings_file(whole: WholeTunnel) -> Path:
    return whole.folder / "join.yaml"


def write_settings(whole: WholeTunnel, routes: Mapping[str, Any], **section: Any) -> None:
    token = whole.folder / "tunnel-token"
    token.write_text(whole.tunnel.token.encode())
    host, port = whole.parts.server.connector_address
    connector = {
        "token_file": str(token),
        "edge": [f"{host}:{port}"],
        "cacert": str(whole.parts.files.path("connector-listener-ca")),
        "protocol": "http2",
        "grace_period": "1s",
        **section,
    }
    settings = proxy_settings(whole.folder, whole.tunnel.record.domain, routes)
    settings_file(whole).write_text(yaml.safe_dump({**settings, "connector": connector}))


def connections(whole: WholeTunnel) -> Counter[UUID]:
    """How many the edge has of each connector."""
    return Counter(connection.request.connector.connector_id for connection in whole.parts.server.connections)


def streams(whole: WholeTunnel) -> Counter[UUID]:
    """How many streams the edge has open to each connector."""
    found: Counter[UUID] = Counter()
    for connection in whole.parts.server.connections:
        found[connection.request.connector.connector_id] += connection.open_streams
    return found


async def call(whole: WholeTunnel) -> int:
    """The status of a call in a session of its own."""
    async with whole.client() as http:
        return (await http.get(whole.url("wiki"))).status_code


def all_json(program: Program) -> bool:
    lines = program.raw_log.splitlines(keepends=True)
    return all(line.endswith(b"\n") and isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.slow
@requirement("join:workers", "join:stop")
async def test_two_workers_share_connections_and_calls_and_stop_together(tmp_path: Path) -> None:
    together = asyncio.Barrier(SESSIONS)

    async def answer(peer: UpstreamPeer) -> None:
        await peer.request()
        await together.wait()
        peer.answer(b"", "Connection: close")

    async with upstream_running(answer) as upstream, joined(tmp_path, upstream.url) as (whole, program):
        await program.lines(REGISTERED, 4)
        assert sorted(connections(whole).values()) == [2, 2]
        async with whole.client() as http:
            answers = await asyncio.gather(*(http.get(whole.url("wiki")) for _ in range(SESSIONS)))
            assert [answer.status_code for answer in answers] == [200] * SESSIONS
            carried = streams(whole)
            assert (len(carried), sum(carried.values()), all(carried.values())) == (2, SESSIONS, True)
        program.terminate()
        assert await program.ended() == 0
        assert len(program.log_lines("stopped")) == 2
        assert all_json(program)


@pytest.mark.slow
@requirement("join:restart")
async def test_a_killed_worker_comes_back_while_calls_go_on(tmp_path: Path) -> None:
    async with upstream_running() as upstream, joined(tmp_path, upstream.url) as (whole, program):
        await program.lines(REGISTERED, 4)
        os.kill(program.log_line("worker started")["pid"], signal.SIGKILL)
        killed = await program.line("worker died, starting another")
        assert (killed["worker"], killed["signal"], killed["wait"]) == (0, 9, 1.0)
        await until(lambda: sum(connections(whole).values()) == 2)
        while len(program.log_lines(REGISTERED)) < 6:
            assert await call(whole) == 200
        assert sorted(connections(whole).values()) == [2, 2]
        program.send(signal.SIGINT)
        assert await program.ended() == 0


@pytest.mark.slow
@requirement("join:stop")
async def test_workers_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with upstream_running() as upstream, joined(tmp_path, upstream.url) as (_, program):
        await program.lines(REGISTERED, 4)
        program.kill()
        assert await program.ended() == -signal.SIGKILL
        assert len(program.log_lines("the parent is gone, stopping")) == 2
        assert len(program.log_lines("stopped")) == 2


@pytest.mark.slow
@requirement("join:give-up")
async def test_a_worker_that_gives_up_ends_all_with_its_exit_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with joined(tmp_path, "http://127.0.0.1:1", "--metrics", address) as (_, program):
            assert await program.ended() == 1
            assert b"address already in use" in program.raw_log.lower()


@pytest.mark.slow
@requirement("join:refused")
async def test_a_reload_that_would_need_one_process_changes_nothing(tmp_path: Path) -> None:
    async with upstream_running() as upstream, joined(tmp_path, upstream.url) as (whole, program):
        await program.lines(REGISTERED, 4)
        write_settings(whole, {"wiki": upstream.url, "local": {"stdio": {"command": ["/bin/cat"]}}})
        program.send(signal.SIGHUP)
        for line in await program.lines("config reload failed", 2):
            assert line["errors"] == [f"routes.local.stdio: {STDIO}"]
        assert await call(whole) == 200
        write_settings(whole, {"wiki": upstream.url, "more": upstream.url})
        program.send(signal.SIGHUP)
        await program.lines("config reloaded", 2)
        program.terminate()
        assert await program.ended() == 0


FIX = "use --workers 1, or replicas with files of their own"
STDIO = f"the program's sessions live in one process; {FIX}"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "audit": ({"audit": {"file": "stdout"}}, f"routes.a.audit: one process must write the whole chain; {FIX}"),
    "stdio": ({"upstream": None, "stdio": {"command": ["/bin/cat"]}}, f"routes.a.stdio: {STDIO}"),
}


def settings(route: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """What a file for `join` holds. The files it names are not there."""
    full = {"upstream": "http://10.0.0.5:80", **(route or {})}
    return {
        "tunnel_domain": "t.example",
        "tls": {"cert_file": "/nowhere/tls.crt", "key_file": "/nowhere/tls.key"},
        "routes": {"a": {key: value for key, value in full.items() if value is not None}},
        "connector": {"token_file": "/nowhere/token", **changes.pop("connector", {})},
        **changes,
    }


@requirement("join:refused")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_one_process_must_own_is_refused_with_the_fix(tmp_path: Path, kind: str) -> None:
    route, problem = REFUSED[kind]
    file = tmp_path / "join.yaml"
    file.write_text(yaml.safe_dump(settings(route)))
    refused = CliRunner().invoke(app, ["--config", str(file), "--workers", "2"])
    assert (refused.exit_code, refused.stderr) == (2, f"{problem}\n")
    alone = CliRunner().invoke(app, ["--config", str(file)])
    assert problem not in alone.stderr  # it fails later, for its certificate


@requirement("join:refused")
def test_ports_that_workers_cannot_have_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "join.yaml"
    addresses = {"admin": {"listen_addr": "127.0.0.1:65533"}, "connector": {"metrics": "127.0.0.1:65535"}}
    file.write_text(yaml.safe_dump(settings(**addresses)))
    refused = CliRunner().invoke(app, ["--config", str(file), "--workers", "4"])
    assert refused.exit_code == 2
    assert refused.stderr.splitlines() == [
        "connector.metrics: worker 3 would need port 65538; choose a lower one",
        "admin.listen_addr and connector.metrics: 4 workers need ports 4 apart",
        "admin.listen_addr: worker 3 would need port 65536; choose a lower one",
    ]


@pytest.mark.parametrize("count", ["0", "17", "many"])
def test_a_number_of_workers_out_of_range_is_misuse(count: str) -> None:
    assert CliRunner().invoke(app, ["--workers", count]).exit_code == 2


def test_a_worker_that_was_told_nonsense_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for nonsense in ("", "1", "0/2/x", "0/2/3/4"):
        monkeypatch.setenv(VARIABLE, nonsense)
        result = CliRunner().invoke(app, ["--workers", "2"])
        assert (result.exit_code, VARIABLE in result.stderr) == (2, True)


@requirement("join:workers")
@pytest.mark.parametrize(("connections", "count", "share"), [(4, 2, 2), (4, 3, 2), (5, 2, 3), (4, 16, 1)])
def test_each_worker_keeps_its_share_of_the_connections(connections: int, count: int, share: int) -> None:
    _, connector = for_worker(both(connector={"ha_connections": connections}), 0, count)
    assert connector.ha_connections == share


@requirement("join:workers")
def test_each_worker_has_ports_of_its_own() -> None:
    fixed = both(admin={"listen_addr": "127.0.0.1:9000"}, connector={"metrics": "[::1]:9100"})
    proxy, connector = for_worker(fixed, 2, 3)
    assert proxy.admin is not None
    assert (proxy.admin.listen_addr, connector.metrics) == (("127.0.0.1", 9002), "[::1]:9102")
    free = both(admin={"listen_addr": "127.0.0.1:0"}, connector={"metrics": "localhost:0"})
    proxy, connector = for_worker(free, 2, 3)
    assert proxy.admin is not None
    assert (proxy.admin.listen_addr, connector.metrics) == (("127.0.0.1", 0), "localhost:0")
    with pytest.raises(ConfigInvalid, match=r"connector\.metrics"):
        for_worker(both(connector={"metrics": "localhost:65535"}), 1, 2)


def both(**changes: Any) -> tuple[ProxyConfig, ConnectorConfig]:
    data = settings(listen_addr="127.0.0.1:0", **changes)
    connector = validate(ConnectorConfig, data.pop("connector"))
    return ProxyConfig.model_validate(data), connector
