"""`qanat edge` on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from qanat.cli.edge import app
from qanat.edge.config import EdgeConfig
from qanat.edge.workers import for_worker
from qanat.pki.judge import covers
from qanat.pki.material import load_pair
from tests.support.edge import Client, DictDirectory, EchoProxy, OperatorFiles, connect, edge_settings, make_tunnel
from tests.support.edge_processes import SERVICE_KEY, directory_over_http
from tests.support.ports import free_port
from tests.support.redis import redis_server
from tests.support.requirements import requirement

run = CliRunner().invoke


def test_pki_makes_everything_an_operator_needs_and_overwrites_nothing(tmp_path: Path) -> None:
    arguments = ["pki", "--directory", str(tmp_path / "pki"), "--base-domain", "tunnel.example.net"]
    assert run(app, arguments).exit_code == 0
    for name, names in {
        "connector-listener": ("h2.cftunnel.com", "quic.cftunnel.com", "probe.cftunnel.com"),
        "client-listener": ("a1b2c3d4.tunnel.example.net",),
        "node": ("edge-node.qanat.internal",),
    }.items():
        certificate, key = tmp_path / "pki" / f"{name}.pem", tmp_path / "pki" / f"{name}-key.pem"
        pair = load_pair(certificate.read_bytes(), key.read_bytes())
        assert all(covers(pair.certificate, wanted) for wanted in names)
        assert key.stat().st_mode & 0o077 == 0
    again = run(app, arguments)
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    nameless = run(app, ["pki", "--directory", str(tmp_path / "none"), "--base-domain", "tunnel example"])
    assert nameless.exit_code == 1
    assert "not a host name" in nameless.stderr


@requirement("edge:client-cert")
def test_client_cert_issues_a_certificate_for_a_name(files: OperatorFiles, tmp_path: Path) -> None:
    ca = ["--ca", str(files.path("client-ca")), "--ca-key", str(files.path("client-ca-key"))]
    arguments = ["client-cert", "--name", "gw.example.net", *ca, "--output", str(tmp_path / "gw")]
    assert run(app, arguments).exit_code == 0
    pair = load_pair((tmp_path / "gw.pem").read_bytes(), (tmp_path / "gw-key.pem").read_bytes())
    assert covers(pair.certificate, "gw.example.net")
    assert run(app, [*arguments, "--lifetime", "soon"]).exit_code == 2
    assert run(app, [*arguments, "--lifetime", "0"]).exit_code == 2


def test_a_wrong_file_is_misuse_and_names_every_key(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text("connectors: {listen_addr: nowhere}\nclients: {}\nlimit: {}\n")
    result = run(app, ["--config", str(path)])
    assert result.exit_code == 2
    for key in ("connectors.listen_addr", "connectors.tls", "clients.allowed_addresses", '"limit"'):
        assert key in result.stderr
    assert run(app, ["--config", str(tmp_path / "none.yaml")]).exit_code == 2


def test_a_file_for_the_control_plane_that_cannot_be_used_is_named(files: OperatorFiles, tmp_path: Path) -> None:
    (key := tmp_path / "key").write_bytes(b"\xff" * 40)
    path, none = tmp_path / "edge.yaml", tmp_path / "none"
    for control, said in (
        ({"service_key_file": str(none)}, f"control.service_key_file: {none}: No such file or directory"),
        ({"service_key_file": str(key)}, f"control.service_key_file: {key}: not text"),
        ({"service_key": "k" * 40, "ca_file": str(none)}, f"control.ca_file: {none}: No such file or directory"),
    ):
        path.write_text(yaml.safe_dump(edge_settings(files, control={"url": "https://x"} | control)))
        result = run(app, ["--config", str(path)])
        assert result.exit_code == 2
        assert said in result.stderr


def test_several_workers_need_a_cluster_and_ports_of_their_own(files: OperatorFiles, tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_text(yaml.safe_dump(edge_settings(files, control={"url": "http://x", "service_key": "k"})))
    result = run(app, ["--config", str(path), "--workers", "2"])
    assert result.exit_code == 2
    assert "cluster is required" in result.stderr
    config = EdgeConfig.model_validate(edge_settings(files, metrics_addr="127.0.0.1:9000"))
    assert [for_worker(config, number, 2).metrics_addr for number in (0, 1)] == ["127.0.0.1:9000", "127.0.0.1:9001"]
    assert for_worker(config, 1, 2).name == "edge-1-1"


@pytest.mark.parametrize(("metrics", "node", "said"), [
    ("127.0.0.1:65535", "127.0.0.1:9000", "metrics_addr: worker 1 would need port 65536; choose a lower one"),
    ("127.0.0.1:9000", "[::1]:65535", "cluster.listen_addr: worker 1 would need port 65536; choose a lower one"),
    ("127.0.0.1:9000", "127.0.0.1:9001", "cluster.listen_addr and metrics_addr: 2 workers need ports 2 apart"),
])  # fmt: skip
def test_ports_that_workers_cannot_have_are_named_before_any_is_started(
    files: OperatorFiles, tmp_path: Path, metrics: str, node: str, said: str
) -> None:
    cluster = {
        "redis_url": "redis://127.0.0.1:1",
        "listen_addr": node,
        "tls": files.files("node"),
        "ca_file": str(files.path("node-ca")),
    }
    path = tmp_path / "edge.yaml"
    control = {"url": "http://x", "service_key": "k"}
    path.write_text(yaml.safe_dump(edge_settings(files, control=control, metrics_addr=metrics, cluster=cluster)))
    result = run(app, ["--config", str(path), "--workers", "2"])
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.slow
@requirement("edge:workers")
async def test_workers_share_the_ports_and_stop_together(
    files: OperatorFiles, directory: DictDirectory, tmp_path: Path
) -> None:
    tunnel = directory.add(make_tunnel())
    connectors, clients = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    async with redis_server(tmp_path) as redis, directory_over_http(directory) as control:
        settings = edge_settings(
            files,
            connectors={"listen_addr": f"127.0.0.1:{connectors[1]}"},
            clients={"listen_addr": f"127.0.0.1:{clients[1]}"},
            control={"url": control, "service_key": SERVICE_KEY},
            cluster={
                "redis_url": redis.url,
                "listen_addr": "127.0.0.1:0",
                "tls": files.files("node"),
                "ca_file": str(files.path("node-ca")),
            },
        )
        path = tmp_path / "edge.yaml"
        path.write_text(yaml.safe_dump(settings))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qanat", "edge", "--config", str(path), "--workers", "2"),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(50):
                listening: set[str] = set()
                found = 0
                while len(listening) < 2 or found < 1:
                    line = json.loads(await process.stderr.readline())
                    if line["msg"] == "edge listening":
                        listening.add(line["name"])
                    found += line["msg"] == "node found" or line.get("others") == 1
            connection = await connect(connectors, files, tunnel.token, EchoProxy())
            await directory.event("connector_registered")
            served = 0
            async with asyncio.timeout(50):
                while served < 12:  # in a row: so whichever worker the kernel chose knows the way by now
                    guest = await Client.dial(clients, files.client_context())
                    served = served + 1 if (await guest.upgrade(tunnel.host())).status == 101 else 0
                    await guest.close()
            connection.close()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(50):
                _, rest = await process.communicate()
            assert process.returncode == 0, rest.decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
