"""The Compose files: hardened, pinned, closed; and the configuration beside them is what the parts understand."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qanat.config import load
from qanat.control.config import ControlConfig
from qanat.edge.config import EdgeConfig
from qanat.gateway.config import GatewayConfig
from qanat.pki.judge import covers
from qanat.pki.material import load_certificate, load_pair
from qanat.proxy.config import load_config
from tests.support.dockerfile import parse
from tests.support.requirements import requirement

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
FILES = ["customer/compose.yaml", "customer/compose.join.yaml", "operator/compose.yaml", "all-in-one/compose.yaml"]
OPERATORS = ("operator/compose.yaml", "operator/compose.single-sign-on.yaml")
PUBLISHES = {"control", "edge", "gateway", "qanat"}
SERVICE_KEYS = {
    *("image", "user", "read_only", "security_opt", "cap_drop", "logging", "profiles", "entrypoint", "command"),
    *("environment", "volumes", "healthcheck", "restart", "stop_grace_period", "deploy", "network_mode", "networks"),
    *("depends_on", "secrets", "ports", "tmpfs"),
}


def services(file: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / file).read_text())["services"]
    return found


@requirement("setup:24")
@pytest.mark.parametrize("file", FILES)
def test_every_service_is_hardened_and_pinned(file: str) -> None:
    variables = (COMPOSE / file).parent.joinpath(".env.example").read_text()
    for name, service in services(file).items():
        assert set(service) <= SERVICE_KEYS, name
        assert not service["user"].startswith("0"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        variable = re.fullmatch(r"\$\{(\w+_IMAGE):\?set it in \.env, by digest\}", service["image"])
        assert variable, name  # without a value Compose refuses to start
        assert re.search(rf"^{variable[1]}=\S+@sha256:$", variables, re.MULTILINE), name
        if name not in PUBLISHES:
            assert "ports" not in service, name
        if name != "setup":
            assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name


@pytest.mark.parametrize("file", FILES)
def test_no_secret_is_written_down(file: str) -> None:
    for name, service in services(file).items():
        for variable, value in (service.get("environment") or {}).items():
            secret = re.search(r"TOKEN$|KEY$|PASSWORD$", variable)
            assert not secret or value is None, (name, variable)


def test_the_customer_runs_the_documented_topology() -> None:
    found = services("customer/compose.yaml")
    assert set(found) == {"setup", "mcp-proxy", "cloudflared"}
    assert found["setup"]["entrypoint"] == ["/setup"]
    assert found["setup"]["profiles"] == ["setup"]
    assert found["cloudflared"]["network_mode"] == "service:mcp-proxy"
    assert found["cloudflared"]["depends_on"]["mcp-proxy"] == {"condition": "service_healthy", "restart": True}
    assert "./data:/data:ro" in found["mcp-proxy"]["volumes"]
    assert found["mcp-proxy"]["healthcheck"]["test"] == ["CMD", "/mcp-proxy", "-healthcheck"]


@pytest.mark.parametrize("file", FILES[:2])
def test_every_variable_of_the_example_reaches_a_service(file: str) -> None:
    found = services(file)
    example = set(re.findall(r"^(\w+)=", (COMPOSE / "customer/.env.example").read_text(), re.MULTILINE))
    given = {name for service in found.values() for name in service.get("environment", {})}
    assert {name for name in example if not name.endswith("_IMAGE")} <= given
    assert {"API_URL", "API_CA_FILE", "TUNNEL_ID", "TUNNEL_NAME"} <= set(found["setup"]["environment"])
    places = [name for name, service in found.items() if "./config:/etc/mcp-tunnel:ro" in service["volumes"]]
    assert {"setup", "cloudflared" if "cloudflared" in found else "join"} == set(places)


def test_database_and_directory_cannot_be_reached_from_outside() -> None:
    document = yaml.safe_load((COMPOSE / "operator/compose.yaml").read_text())
    assert document["networks"]["back"]["internal"] is True
    for name in ("postgres", "redis"):
        assert document["services"][name]["networks"] == ["back"]
    used = {secret for service in document["services"].values() for secret in service.get("secrets", [])}
    assert used == set(document["secrets"])


def test_the_control_planes_volume_is_made_for_its_user() -> None:
    control = services("operator/compose.yaml")["control"]
    assert "control:/var/lib/qanat" in control["volumes"]
    stages = {name: steps for name, _, steps in parse(COMPOSE.parent / "Dockerfile")}
    made = f"--from=build-operator --chown={control['user']} /opt/empty /var/lib/qanat"
    assert ("COPY", made) in stages["operator"]


def test_every_part_understands_its_file() -> None:
    config = COMPOSE / "operator" / "config"
    control = load(ControlConfig, config / "control.yaml")
    edge = load(EdgeConfig, config / "edge.yaml")
    gateway = load(GatewayConfig, config / "gateway.yaml")
    assert gateway.edge is not None
    assert gateway.edge.base_domain == control.domain_base
    assert edge.clients.listen_addr.rpartition(":")[2] == gateway.edge.address.rpartition(":")[2]
    assert "tickets" in load_config(COMPOSE / "customer/config/mcp-proxy.yaml").routes
    mounted = {f"/run/secrets/{name}" for file in OPERATORS for name in secrets_of(file)}
    named = set(re.findall(r"/run/secrets/[\w-]+", "".join(path.read_text() for path in config.iterdir())))
    assert named <= mounted


def secrets_of(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / file).read_text())["secrets"]
    return found


def test_single_sign_on_needs_only_its_comment_signs_taken_away() -> None:
    head, mark, tail = (COMPOSE / "operator/config/control.yaml").read_text().partition("  # single_sign_on:\n")
    text = head + (mark + tail).replace("  # ", "  ")
    control = ControlConfig.model_validate(yaml.safe_load(text))
    sign_on = control.console.single_sign_on
    assert sign_on is not None
    assert sign_on.client_secret_file == Path("/run/secrets/console-client-secret")
    mounted = services("operator/compose.single-sign-on.yaml")["control"]["secrets"]
    assert mounted == list(secrets_of("operator/compose.single-sign-on.yaml")) == ["console-client-secret"]


@pytest.mark.slow
def test_prepare_makes_secrets_once(tmp_path: Path) -> None:
    folder = tmp_path / "operator"
    shutil.copytree(COMPOSE / "operator", folder)
    qanat = Path(sys.executable).with_name("qanat")
    command = [str(folder / "prepare.sh"), "tunnel.example.net", "api.tunnels.example.net"]
    environment = {"QANAT": str(qanat), "PATH": os.environ["PATH"]}
    failing = environment | {"QANAT": "false"}
    failed = subprocess.run(command, env=failing, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert not (folder / "secrets").exists(), "the next run would find it and do nothing"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    secrets = folder / "secrets"
    for declared in yaml.safe_load((folder / "compose.yaml").read_text())["secrets"].values():
        assert (folder / declared["file"]).stat().st_size > 0
    api = load_pair((secrets / "control.pem").read_bytes(), (secrets / "control-key.pem").read_bytes())
    assert covers(api.certificate, "api.tunnels.example.net")
    assert covers(load_certificate((secrets / "pki/gateway.pem").read_bytes()), "gateway")
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert "nothing was done" in again.stdout
