"""Every how-to of the customer's side is followed, command by command, against a real control plane and a real edge."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qanat.api.http import Call, JSONClient
from qanat.api.tunnels import TunnelsClient
from qanat.ids import TunnelID
from qanat.stack import Stack, join
from tests.docs.following import IMAGE, ROOT, Follower, blocks
from tests.docs.shims import alive
from tests.support.ports import free_port


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
    await reader.do("docker compose down")
    joined = next(block for block in blocks("quickstart.md") if block.variant == "join")
    assert "every hop that was checked works" in await reader.do(joined.text)


async def test_quickstart_without_programmatic_access(reader: Reader) -> None:
    async with TunnelsClient(reader.stack.control.url, reader.stack.control.credential) as console:
        tunnel = await console.create("by hand")
        token = (await console.reveal_token(tunnel.id)).tunnel_token.get_secret_value()
        given = {"TUNNEL_DOMAIN": tunnel.domain, "TUNNEL_TOKEN": token}
        printed, followed = "", list[str]()
        for block in blocks("quickstart.md"):
            programmatic = block.text.endswith("docker compose run --rm setup\n")
            if block.language != "sh" or block.variant == "join" or programmatic:
                continue
            followed.append(block.text)
            printed += await reader.do(block.text, **given)
            if block.variant == "manual":
                await console.register_certificate(tunnel.id, (reader.work / "data" / "ca.crt").read_text())
    assert "tls.crt: OK" in printed
    assert "chown" not in "".join(followed).partition("openssl verify")[0], "the files are made by whoever follows"
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
    assert stat.S_IMODE((reader.work / "tunnel.tar").stat().st_mode) == 0o600
    assert "ca.key" not in names
