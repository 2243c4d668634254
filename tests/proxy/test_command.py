"""`qanat proxy` as a process: flags, exit codes, the start-up log, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from qanat.errors import QanatError
from qanat.proxy.server import RunningProxy
from tests.support.proxy import WAIT, TestPKI, TunnelEnd, UpstreamPeer, config_data, make_pki, until, upstream_running
from tests.support.requirements import requirement

QANAT = [sys.executable, "-m", "qanat", "proxy"]
ROUTES = {"echo": "http://10.0.0.1:1", "wiki": "http://10.0.0.2:2"}


def write(path: Path, pki: TestPKI, routes: Any = None, **changes: Any) -> Path:
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump(config_data(pki, routes or ROUTES, **changes)))
    return file


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*QANAT, *arguments], capture_output=True, text=True, timeout=WAIT, check=False)


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[dict[str, Any]]]]:
    """The process once it listens, and its log so far."""
    process = await asyncio.create_subprocess_exec(*QANAT, *arguments, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(WAIT):
            while not lines or lines[-1]["msg"] != "listening":
                lines.append(json.loads(await process.stderr.readline()))
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@requirement("proxy:1", "proxy:8", "proxy:38")
async def test_a_start_logs_each_route_and_sigterm_ends_it_with_0(pki: TestPKI, tmp_path: Path) -> None:
    file = write(tmp_path, pki, tunnel_domain="")
    async with started("-config", str(file), "-tunnel-domain=t.example") as (process, lines):
        routes = [(line["route"], line["upstream"]) for line in lines if line["msg"] == "route configured"]
        assert routes == list(ROUTES.items())
        loaded = [line for line in lines if line["msg"] == "certificate loaded"]
        assert loaded[0]["san"] == ["*.t.example", "t.example"]
        assert all({"time", "level", "msg"} <= line.keys() for line in lines)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT):
            assert await process.wait() == 0


@pytest.mark.slow
async def test_healthcheck_asks_the_running_proxy(pki: TestPKI, tmp_path: Path) -> None:
    file = write(tmp_path, pki)
    async with started("--config", str(file)) as (_, lines):
        port = lines[-1]["address"].rpartition(":")[2]
        asked = write(tmp_path, pki, listen_addr=f":{port}")
        ready = await asyncio.to_thread(run, f"-config={asked}", "-healthcheck")
        assert (ready.returncode, ready.stdout) == (0, "ready\n")
    gone = await asyncio.to_thread(run, f"-config={asked}", "-healthcheck")
    assert gone.returncode == 1


@requirement("proxy:2", "proxy:6")
def test_a_bad_file_prints_every_problem_and_exits_2(pki: TestPKI, tmp_path: Path) -> None:
    done = run("-config", str(write(tmp_path, pki, [{"a": "http://x:1"}], upstream={"alowed_ips": []})))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "yaml: unmarshal errors:"
    assert "cannot unmarshal !!seq into map[string]string" in lines[1]
    assert 'unknown field "upstream.alowed_ips"' in done.stderr
    assert json.loads(lines[-1])["level"] == "error"


@pytest.mark.slow
@requirement("proxy:4")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_key_of_another_user_stops_the_start() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders cannot be entered by others
        folder = Path(name)
        folder.chmod(0o755)
        pki = make_pki(folder)
        pki.key_file.chmod(0o600)
        command = [*QANAT, "-config", str(write(folder, pki))]
        as_other = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", *command]
        done = subprocess.run(as_other, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 2
    assert f"open {pki.key_file}: permission denied" in done.stderr


@pytest.mark.slow
def test_check_prints_where_each_route_leads(pki: TestPKI, tmp_path: Path) -> None:
    done = run("-check", "-config", str(write(tmp_path, pki)))
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [
        "echo.t.example -> http://10.0.0.1:1",
        "wiki.t.example -> http://10.0.0.2:2",
    ]
    bad = run("-check", "-config", str(write(tmp_path, pki, {"a": "x"})))
    assert bad.returncode == 1
    assert "invalid upstream" in bad.stderr


@pytest.mark.slow
def test_unknown_flags_are_misuse_and_version_is_printed(pki: TestPKI, tmp_path: Path) -> None:
    assert run("-nonsense").returncode == 2
    done = run("-version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "qanat")
    unknown = write(tmp_path, pki, something_new=1)
    assert run("-check", "-config", str(unknown)).returncode == 1
    assert run("-check", "-allow-unknown-fields", "-config", str(unknown)).returncode == 0


class AtPort(TunnelEnd):
    """A proxy in another process."""

    def __init__(self, pki: TestPKI, port: int) -> None:
        super().__init__(cast(RunningProxy, None), pki)
        self.port = port

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


@pytest.mark.slow
@requirement("proxy:38")
async def test_a_second_signal_does_not_wait_for_what_is_going_on(pki: TestPKI, tmp_path: Path) -> None:
    async def hang(peer: UpstreamPeer) -> None:
        await peer.request()
        await peer.head()

    async with upstream_running(hang) as upstream:
        file = write(tmp_path, pki, {"echo": upstream.url}, shutdown_timeout="10m")
        async with started("-config", str(file)) as (process, lines):
            end = AtPort(pki, int(lines[-1]["address"].rpartition(":")[2]))
            inner = await end.connect()
            inner.send("GET / HTTP/1.1\nHost: echo.t.example")
            await until(lambda: bool(upstream.seen))
            process.send_signal(signal.SIGTERM)
            with pytest.raises((ConnectionError, QanatError)):  # noqa: PT012 - the loop is what is waited with
                while True:  # until the first signal has been taken up
                    await end.connect()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(WAIT):
                assert await process.wait() == 0
            end.hang_up()
