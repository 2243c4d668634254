"""Every how-to of the deployment is followed, command by command, against a real control plane and a real edge."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qanat.api.http import Call, JSONClient
from qanat.api.tunnels import TunnelsClient
from qanat.control.config import ControlConfig
from qanat.control.server import open_operations
from qanat.ids import TunnelID
from qanat.stack import Stack, join
from tests.docs.shims import alive
from tests.support.postgres import Postgres, find_programs, running_postgres

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
IMAGE = f"example.net/image@sha256:{'d' * 64}"


@dataclass(frozen=True)
class Block:
    variant: str
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for variant, indent, language, text in BLOCK.findall((HOWTO / page).read_text()):
        found.append(Block(variant, language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)))
    return found


@dataclass
class Follower:
    """Runs a page's blocks in a folder, with stand-ins for what this machine does not have."""

    work: Path
    state: Path

    def install(self) -> None:
        """Put the stand-ins where a shell finds them."""
        shims = self.state / "bin"
        shims.mkdir(parents=True)
        (shims / "qanat").symlink_to(Path(sys.executable).with_name("qanat"))
        for name in ("docker", "helm", "kubectl", "sudo"):
            script = f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(ROOT)!r}]\n"
            (shims / name).write_text(f"{script}from tests.docs.shims import main\nmain()\n")
            (shims / name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        raise NotImplementedError

    async def do(self, text: str, **more: str) -> str:
        """Run one block as a shell would, stopping at the first failure."""
        environment = self.environment() | more
        script = f"set -euo pipefail\n{text}"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script), cwd=self.work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(120):
                output = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        logs = "\n".join(path.read_text() for path in self.state.glob("*.log"))
        assert process.returncode == 0, f"{text}\n--- said:\n{output}\n--- logs:\n{logs[-4000:]}"
        return output


@dataclass
class Operator(Follower):
    """Somebody in the operator's Compose folder."""

    replace: dict[str, str]
    redis_port: str
    postgres: Postgres

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.state / 'bin'}:{os.environ['PATH']}",
            "SHIM_STATE": str(self.state),
            "SHIM_REPLACE": json.dumps({**self.replace, "10.0.0.0/8, 172": "127.0.0.0/8, 10.0.0.0/8, 172"}),
            "SHIM_REDIS_PORT": self.redis_port,
            "SHIM_PSQL": f"{self.postgres.programs}/psql -q -h 127.0.0.1 -p {self.postgres.port}"
            f" -U {self.postgres.superuser} postgres",
            "QANAT": "qanat",
            **dict.fromkeys(("QANAT_OPERATOR_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE"), IMAGE),
        }


@dataclass
class Reader(Follower):
    """Somebody with a running operator's side to connect to."""

    stack: Stack
    api_token: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    async def prepare(self) -> None:
        headers = {"authorization": f"Bearer {self.stack.control.credential.get_secret_value()}"}
        async with JSONClient(self.stack.control.url, headers) as client:
            body = {"name": "guide", "lifetime_seconds": 3600}
            self.api_token = (await client.call(Call("POST", "/admin/v1/tunnels_api_keys", body)))["token"]
        self.install()

    def environment(self) -> dict[str, str]:
        proxy, metrics = free_port(), free_port()
        upstream = f"{self.stack.samples.urls['tickets']}\nupstream: {{allowed_ips: [127.0.0.1/32]}}"
        replace = {
            "http://tickets:9000": upstream,
            "http://10.0.0.5:8080": upstream,
            "edge.example.net:7844": join(self.stack.edge.connector_address),
            "https://api.example.com": self.stack.control.url,
            "127.0.0.1:20241": f"127.0.0.1:{metrics}",
        }
        self.variables = self.variables or {
            "PATH": f"{self.state / 'bin'}:{os.environ['PATH']}",
            "SHIM_STATE": str(self.state),
            "SHIM_ROOT": str(self.work / "root"),
            "SHIM_REPLACE": json.dumps(replace),
            "SHIM_PROXY_PORT": str(proxy),
            "API_URL": self.stack.control.url,
            "API_TOKEN": self.api_token,
            "TUNNEL_EDGE": join(self.stack.edge.connector_address),
            "TUNNEL_CACERT": str(self.stack.pki / "connector-listener-ca.pem"),
            "QANAT_IMAGE": IMAGE,
            "CLOUDFLARED_IMAGE": IMAGE,
            "CHART": str(ROOT / "deploy/helm/mcp-tunnel"),
        }
        return self.variables

    async def follow(self, page: str, *variants: str) -> str:
        """Do every block of a page that belongs to no variant, or to one of `variants`; what they print."""
        printed = ""
        for block in blocks(page):
            if block.variant and block.variant not in variants:
                continue
            if block.language == "sh":
                printed += await self.do(block.text)
            elif block.language == "yaml":
                self.write(block.text)
        return printed

    def write(self, text: str) -> None:
        """A file that a page shows, put where its first line says."""
        name = re.match(r"# file: (\S+)", text)
        assert name
        path = self.work / "root" / name[1].lstrip("/") if name[1].startswith("/") else self.work / name[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        replace: dict[str, str] = json.loads(self.environment()["SHIM_REPLACE"])
        for old, new in replace.items():
            text = text.replace(old, new)
        # The page shortens digests.
        path.write_text(re.sub(r"sha256:(\w)\w+", lambda match: f"sha256:{match[1] * 64}", text))

    def processes(self) -> list[int]:
        return [int(path.read_text()) for path in self.state.glob("*.pid")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    """In a copy of the customer's Compose folder."""
    work = tmp_path / "work"
    shutil.copytree(ROOT / "deploy/compose/customer", work, ignore=shutil.ignore_patterns("data", ".env"))
    (tmp_path / "stack").mkdir()
    async with Stack(tmp_path / "stack") as stack:
        someone = Reader(work, tmp_path / "state", stack)
        await someone.prepare()
        yield someone
        for pid in someone.processes():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_quickstart(reader: Reader) -> None:
    printed = await reader.follow("quickstart.md")
    assert "ready: tnl_" in printed
    assert "every hop that was checked works" in printed


async def test_quickstart_without_programmatic_access(reader: Reader) -> None:
    async with TunnelsClient(reader.stack.control.url, reader.stack.control.credential) as console:
        tunnel = await console.create("by hand")
        token = (await console.reveal_token(tunnel.id)).tunnel_token.get_secret_value()
        given = {"TUNNEL_DOMAIN": tunnel.domain, "TUNNEL_TOKEN": token}
        printed = ""
        for block in blocks("quickstart.md"):
            if block.language != "sh" or block.text.strip() == "docker compose run --rm setup":
                continue
            printed += await reader.do(block.text, **given)
            if block.variant == "manual":
                await console.register_certificate(tunnel.id, (reader.work / "data" / "ca.crt").read_text())
    assert "tls.crt: OK" in printed
    assert "every hop that was checked works" in printed


async def test_rotate(reader: Reader) -> None:
    await reader.follow("quickstart.md")
    before = {path.name: path.read_bytes() for path in (reader.work / "data").iterdir()}
    printed = await reader.follow("rotate.md")
    after = {path.name: path.read_bytes() for path in (reader.work / "data").iterdir()}
    assert "rotated the token" in printed
    assert "nothing to do" in printed
    assert after["tunnel-id"] == before["tunnel-id"]
    assert all(after[name] != before[name] for name in ("tunnel-token", "ca.crt", "tls.crt", "tls.key"))


async def archived(reader: Reader, tunnel_id: str) -> bool:
    async with TunnelsClient(reader.stack.control.url, reader.stack.control.credential) as console:
        return (await console.get(TunnelID(tunnel_id))).archived_at is not None


async def test_respond_to_a_breach(reader: Reader) -> None:
    await reader.follow("quickstart.md")
    stolen = (reader.work / "data" / "tunnel-id").read_text()
    await reader.follow("respond-to-a-breach.md")
    assert reader.processes() == []
    assert await archived(reader, stolen)
    assert (reader.work / "data" / "tunnel-id").read_text() != stolen
    assert (reader.work / "evidence" / "stack.log").stat().st_size > 0


async def test_tear_down(reader: Reader) -> None:
    await reader.follow("quickstart.md")
    tunnel_id = (reader.work / "data" / "tunnel-id").read_text()
    await reader.follow("tear-down.md")
    assert reader.processes() == []
    assert await archived(reader, tunnel_id)
    assert not (reader.work / "data").exists()


async def test_upgrade(reader: Reader) -> None:
    await reader.follow("quickstart.md")
    assert "ready" in await reader.follow("upgrade.md")


async def test_migrate_from_the_reference_stack(reader: Reader) -> None:
    await reader.follow("quickstart.md")
    before = {path.name: path.read_bytes() for path in (reader.work / "data").iterdir()}
    await reader.do("docker compose down")
    printed = await reader.follow("migrate-from-the-reference-stack.md")
    assert {path.name: path.read_bytes() for path in (reader.work / "data").iterdir()} == before
    assert "token version unchanged, not rotating" in printed
    assert "every hop that was checked works" in printed


async def test_production_on_kubernetes(reader: Reader) -> None:
    printed = await reader.follow("production-kubernetes.md")
    assert "successfully rolled out" in printed
    assert "rotated the token" in printed
    assert ".tunnel.localhost" in printed
    secret = reader.state / "secrets" / "mcp-tunnel"
    assert (secret / "token-version").read_text() == "2"
    shutil.copytree(secret, reader.work / "data")
    external = next(block for block in blocks("production-kubernetes.md") if block.variant == "external")
    await reader.do(external.text)
    upgraded = next(block for block in blocks("upgrade.md") if block.variant == "kubernetes")
    assert "successfully rolled out" in await reader.do(upgraded.text)
    tunnel_id = (secret / "tunnel-id").read_text()
    gone = next(block for block in blocks("tear-down.md") if block.variant == "kubernetes")
    await reader.do(gone.text)
    assert await archived(reader, tunnel_id)
    assert not secret.exists()


async def test_production_on_vms(reader: Reader) -> None:
    shutil.copytree(ROOT / "deploy" / "systemd", reader.work / "deploy" / "systemd")
    for folder in ("usr/lib/sysusers.d", "etc/systemd/system", "etc/qanat", "var/lib"):
        (reader.work / "root" / folder).mkdir(parents=True)
    printed = await reader.follow("production-vms.md")
    assert "active" in printed
    assert "every hop that was checked works" in printed
    restarted = next(block for block in blocks("upgrade.md") if block.variant == "vm")
    await reader.do(restarted.text)
    names = await reader.do("tar -tf tunnel.tar")
    assert "tunnel/tls.key" in names
    assert "ca.key" not in names


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres(programs, strict=True) as server:
        yield server


async def test_run_the_operators_side(tmp_path: Path, postgres: Postgres) -> None:
    work = tmp_path / "operator"
    shutil.copytree(ROOT / "deploy/compose/operator", work, ignore=shutil.ignore_patterns("secrets", ".env"))
    api, connectors, clients, nodes, redis, health, edge_metrics, messages = (free_port() for _ in range(8))
    replace = {
        "0.0.0.0:8787": f"127.0.0.1:{api}",
        "127.0.0.1:8787": f"127.0.0.1:{api}",
        "https://control:8787": f"https://127.0.0.1:{api}",
        '":7844"': f'"127.0.0.1:{connectors}"',
        "127.0.0.1:7844": f"127.0.0.1:{connectors}",
        '":8443"': f'"127.0.0.1:{clients}"',
        "edge:8443": f"127.0.0.1:{clients}",
        "advertise_host: edge": f'advertise_host: 127.0.0.1\n  listen_addr: "127.0.0.1:{nodes}"',
        "postgres:5432": f"127.0.0.1:{postgres.port}",
        "redis://redis:6379": f"redis://127.0.0.1:{redis}",
        '":9090"': f'"127.0.0.1:{edge_metrics}"',
        "127.0.0.1:9090": f"127.0.0.1:{edge_metrics}",
        "0.0.0.0:9091": f"127.0.0.1:{health}",
        "127.0.0.1:9091": f"127.0.0.1:{health}",
        "0.0.0.0:8788": f"127.0.0.1:{messages}",
    }
    operator = Operator(work, tmp_path / "state", replace, str(redis), postgres)
    operator.install()
    printed = ""
    try:
        for block in blocks("run-the-operators-side.md"):
            text = block.text
            for old, new in replace.items():
                text = text.replace(old, new)
            printed += await operator.do(text)
        rotation = next(block for block in blocks("rotate.md") if block.variant == "compose_master_key")
        printed += await operator.do(rotation.text)
    finally:
        for path in (tmp_path / "state").glob("*.pid"):
            if alive(pid := int(path.read_text())):
                os.kill(pid, signal.SIGKILL)
    assert "ready: tnl_" in printed
    assert "every hop that was checked works" in printed
    assert "values sealed again" in printed
    assert postgres.execute("SELECT count(*) FROM tunnels", "qanat").strip() == "1"


@dataclass
class ClusterOperator(Follower):
    """Somebody with the operator's chart and its Secrets."""

    def environment(self) -> dict[str, str]:
        path = f"{self.state / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "SHIM_STATE": str(self.state), "OPERATOR_CHART": str(ROOT / "deploy/helm/qanat")}

    def make_secret(self, name: str, **keys: str) -> Path:
        folder = self.state / "secrets" / f"qanat-{name}"
        folder.mkdir(parents=True)
        for key, value in keys.items():
            (folder / key.replace("__", "-").replace("_", ".")).write_text(value)
        return folder


async def test_rotate_the_master_key_on_kubernetes(tmp_path: Path) -> None:
    operator = ClusterOperator(tmp_path, tmp_path / "state")
    operator.install()
    key = operator.make_secret("master-key", master_key=f"first {b64encode(os.urandom(32)).decode()}\n") / "master.key"
    url = f"sqlite:///{tmp_path / 'control.db'}"
    operator.make_secret("database", database__url=url)
    operator.make_secret("bootstrap", token="b" * 40)
    operator.make_secret("service-keys", edge="e" * 40, gateway="g" * 40)
    operator.make_secret("tls", tls_crt="x", tls_key="x")
    values = {"image": {"digest": f"sha256:{'c' * 64}"}, "baseDomain": "t.example.net"}
    (tmp_path / "values.yaml").write_text(json.dumps(values | {"control": {"publicUrl": "https://api.example.net"}}))

    async def opens_with(path: Path) -> str:
        config = ControlConfig.model_validate({"data_dir": tmp_path, "database_url": url, "master_key_file": path})
        async with open_operations(config) as (operations, _):
            return operations.context.cursor_key.hex()

    sealed = await opens_with(key)
    printed = ""
    for block in blocks("rotate.md"):
        if block.variant == "kubernetes_master_key":
            printed += await operator.do(block.text)
    assert "values sealed again" in printed
    assert not key.exists()
    assert await opens_with(operator.state / "secrets" / "qanat-master-key-2" / "master.key") == sealed
