"""Every how-to of the operator's side is followed, command by command, with a real PostgreSQL and a real Redis."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qanat.control.config import ControlConfig
from qanat.control.server import open_operations
from qanat.control.server import serve as serve_control
from tests.docs.following import IMAGE, ROOT, Follower, blocks
from tests.docs.shims import alive
from tests.support.control import EDGE_KEY, control_config
from tests.support.ports import free_port
from tests.support.postgres import Postgres, find_programs, running_postgres
from tests.support.redis import redis_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


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
    with ended(operator):
        for block in blocks("run-the-operators-side.md"):
            text = block.text
            for old, new in replace.items():
                text = text.replace(old, new)
            printed += await operator.do(text)
        rotation = next(block for block in blocks("rotate.md") if block.variant == "compose_master_key")
        printed += await operator.do(rotation.text)
    assert "ready: tnl_" in printed
    assert "every hop that was checked works" in printed
    assert "values sealed again" in printed
    for name in ("operator-token", "first-customer.json"):
        assert stat.S_IMODE((work / name).stat().st_mode) == 0o600, name
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
    operator.make_secret("tls", tls_crt="x", tls_key="x", ca_crt="x")
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


@dataclass
class EdgeOperator(Follower):
    """Somebody on the machine of an edge; what is below / is below a folder of the test."""

    replace: dict[str, str]

    def environment(self) -> dict[str, str]:
        path = f"{self.state / 'bin'}:{os.environ['PATH']}"
        replace = json.dumps({old: new for old, new in self.replace.items() if not old.startswith("/")})
        return {"PATH": path, "SHIM_STATE": str(self.state), "SHIM_ROOT": str(self.root), "SHIM_REPLACE": replace}

    @property
    def root(self) -> Path:
        return self.work / "root"

    def local(self, text: str) -> str:
        """A block in the places and addresses of the test."""
        for old, new in self.replace.items():
            text = text.replace(old, new)
        return text


async def test_run_an_edge(tmp_path: Path) -> None:
    connectors, clients, metrics, nodes = (free_port() for _ in range(4))
    config = control_config(tmp_path / "control", domain_base="tunnel.example.net")
    async with serve_control(config) as control, redis_server(tmp_path) as redis:
        replace = {
            "/etc/qanat": str(tmp_path / "root/etc/qanat"),
            '":7844"': f'"127.0.0.1:{connectors}"',
            '":443"': f'"127.0.0.1:{clients}"',
            ":443:127.0.0.1": f":{clients}:127.0.0.1",
            ".net:443/": f".net:{clients}/",
            "127.0.0.1:9464": f"127.0.0.1:{metrics}",
            '":7845"': f'"127.0.0.1:{nodes}"',
            "192.0.2.11": "127.0.0.1",
            "198.51.100.0/24": "127.0.0.0/8",
            "https://control.example.net": control.url,
            "rediss://:password@redis.example.net:6379/0": redis.url,
        }
        operator = EdgeOperator(tmp_path, tmp_path / "state", replace)
        operator.install()
        shutil.copytree(ROOT / "deploy" / "systemd", tmp_path / "deploy" / "systemd")
        for folder in ("etc/systemd/system", "usr/lib/sysusers.d"):
            (tmp_path / "root" / folder).mkdir(parents=True)
        config_file = tmp_path / "root/etc/qanat/edge.yaml"
        printed = ""
        with ended(operator):
            for block in blocks("run-an-edge.md"):
                text = operator.local(block.text)
                if block.language == "sh":
                    printed += await operator.do(text)
                elif block.variant == "cluster":
                    config_file.write_text(config_file.read_text() + text)
                else:
                    config_file.write_text(text)
                    (config_file.parent / "edge/service-key").write_text(EDGE_KEY)
        log = (operator.state / "qanat-edge.service.log").read_text()
    assert "qanat_edge_control_following 1.0" in printed
    assert "unknown_host" in printed
    assert "following the control plane" in log
    assert "cluster joined" in log
    assert (tmp_path / "root/usr/lib/sysusers.d/qanat.conf").exists()


@contextmanager
def ended(operator: Follower) -> Iterator[None]:
    """Ends what was started in the background."""
    try:
        yield
    finally:
        for path in operator.state.glob("*.pid"):
            if alive(pid := int(path.read_text())):
                os.kill(pid, signal.SIGKILL)
