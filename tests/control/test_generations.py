"""Every generation of the official Python SDK, and the TypeScript one, through the same flows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.control import Tenant
from tests.support.federation import federate
from tests.support.requirements import requirement

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODULES = ROOT / "tests" / "npm" / "node_modules"
PYTHONS = {
    "2": Path(sys.executable),
    "1": ROOT / ".venv-anthropic-1" / "bin" / "python",
    "0": ROOT / ".venv-anthropic-0" / "bin" / "python",
}


def run(command: list[str], tenant: Tenant, ca_pem: str, folder: Path) -> dict[str, Any]:
    federated = federate(tenant)
    given = {
        "url": tenant.url,
        "token": tenant.mint(),
        "ca_pem": ca_pem,
        "federation": {
            "assertion": federated.assertion(),
            "rule_id": federated.rule_id,
            "organization_id": tenant.organization_id,
        },
    }
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def check_tunnels(seen: dict[str, Any]) -> None:
    create = seen["create"]
    assert (create["method"], create["path"], create["body"]) == ("POST", "/v1/tunnels", "{}")
    assert (create["name"], create["type"], create["archived"]) == (None, "tunnel", None)
    assert seen["request_id"].startswith("req_")
    assert seen["longest"] == 255
    assert seen["too_long"]["attempts"] == 1
    assert "display_name" in seen["too_long"]["message"]
    assert len(seen["listed"]) == 5
    assert seen["listed"][:3] == seen["made"][:0:-1]
    assert seen["listed"][-1] == seen["made"][0]
    assert len(seen["pages"]) == 3
    assert seen["pages"][0] == {"limit": "2"}
    assert seen["pages"][1]["limit"] == "2"
    assert seen["pages"][1]["page"].startswith("page_")
    first, second, rotated = seen["token"]
    assert first == second != rotated
    assert len(seen["archived"]) == 3
    assert len(set(seen["archived"])) == 1
    assert seen["still_listed"] == []
    assert seen["not_found"] is True


@pytest.mark.slow
@requirement("tunnels-api:1", "tunnels-api:2", "tunnels-api:6", "tunnels-api:10", "workload-identity:1")
@pytest.mark.parametrize("generation", PYTHONS)
def test_each_generation_of_the_python_sdk(tenant: Tenant, ca_pem: str, generation: str, tmp_path: Path) -> None:
    python = PYTHONS[generation]
    if not python.exists():
        pytest.skip(f"{python} is missing: make prepare installs it")
    seen = run([str(python), str(HERE / "sdk_flows.py")], tenant, ca_pem, tmp_path)
    assert seen["version"].split(".")[0] == generation
    check_tunnels(seen["tunnels"])
    assert seen["federation"]["authorization"].startswith("Bearer sk-ant-oat01-")
    assert "oauth-2025-04-20" in seen["federation"]["anthropic-beta"]


@pytest.mark.slow
@requirement("tunnels-api:1", "tunnels-api:2", "tunnels-api:6", "tunnels-api:10")
def test_the_typescript_sdk(tenant: Tenant, ca_pem: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "@anthropic-ai" / "sdk").is_dir():
        pytest.skip("node or @anthropic-ai/sdk is missing: make prepare installs it")
    (tmp_path / "node_modules").symlink_to(MODULES)
    shutil.copy(HERE / "sdk_flows.mjs", tmp_path)
    check_tunnels(run([node, "sdk_flows.mjs"], tenant, ca_pem, tmp_path)["tunnels"])
