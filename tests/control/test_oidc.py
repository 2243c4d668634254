"""Workload identity against an OpenID provider that others wrote (npm oidc-provider), over TLS from end to end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.control import ControlThread
from tests.support.federation import federate
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.requirements import requirement

HERE = Path(__file__).parent
MODULES = HERE.parent / "npm" / "node_modules"
HOST = "issuer.test"


class Provider:
    """The running provider."""

    def __init__(self, folder: Path, node: str) -> None:
        ca = throwaway_ca("provider")
        self.ca_pem = ca.certificate_pem.decode()
        (folder / "ca.crt").write_text(self.ca_pem)
        server = throwaway_server(ca, HOST)
        (folder / "tls.crt").write_bytes(server.certificate_pem)
        (folder / "tls.key").write_bytes(server.key_pem)
        (folder / "node_modules").symlink_to(MODULES)
        shutil.copy(HERE / "oidc_provider.mjs", folder)
        self._process = subprocess.Popen(
            [node, "oidc_provider.mjs", "tls.crt", "tls.key"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = int(self._say(None))
        self.url = f"https://{HOST}:{self.port}"
        self._context = ssl.create_default_context(cadata=self.ca_pem)

    def _say(self, line: str | None) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the provider is gone"
        return answer

    def rotate(self) -> None:
        self._say("rotate")

    def identity_token(self) -> str:
        """What a client gets from it."""
        with httpx2.Client(verify=self._context, timeout=30) as http:
            response = http.post(
                f"https://127.0.0.1:{self.port}/token",
                headers={"host": f"{HOST}:{self.port}"},
                extensions={"sni_hostname": HOST},
                data={"grant_type": "client_credentials"},
                auth=("ci", "a-client-secret-of-the-test"),
            )
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    node = shutil.which("node")
    if node is None or not (MODULES / "oidc-provider").is_dir():
        pytest.skip("node or oidc-provider is missing: make prepare installs it")
    folder = tmp_path / "provider"
    folder.mkdir()
    made = Provider(folder, node)
    yield made
    made.close()


async def resolve(host: str, port: int) -> list[str]:
    await asyncio.sleep(0)
    return {HOST: ["127.0.0.1"]}[host]


@pytest.mark.slow
@requirement("workload-identity:22", "workload-identity:34")
def test_a_real_provider_and_its_rotated_keys_over_tls(
    start_control: Callable[..., ControlThread], provider: Provider, tmp_path: Path
) -> None:
    ca = throwaway_ca("control")
    pair = throwaway_server(ca, "localhost")
    for name, data in (("ca.crt", ca.certificate_pem), ("tls.crt", pair.certificate_pem), ("tls.key", pair.key_pem)):
        (tmp_path / name).write_bytes(data)
    policy = {"allow_hosts": [HOST], "allow_cidrs": ["127.0.0.0/8"], "allow_ports": [provider.port]}
    control = start_control(
        {
            "tls": {"cert_file": tmp_path / "tls.crt", "key_file": tmp_path / "tls.key"},
            "federation": {"fetch_policy": policy, "default_audiences": ["https://control.example"]},
        },
        resolve=resolve,
    )
    federated = federate(
        control.new_tenant(),
        issuer={"issuer_url": provider.url, "jwks": {"type": "discovery", "ca_cert_pem": provider.ca_pem}},
        rule={"match": {"claims": {"client_id": "ci"}, "condition": 'claims.env == "prod"'}},
    )
    for _ in range(2):
        federation = {
            "assertion": provider.identity_token(),
            "rule_id": federated.rule_id,
            "organization_id": federated.tenant.organization_id,
        }
        # In a process of its own: within one process the SDK remembers whom it trusts.
        done = subprocess.run(
            [sys.executable, str(HERE / "sdk_flows.py")],
            input=json.dumps({"url": f"https://localhost:{control.server.port}", "federation": federation}),
            env=os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.crt")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["federation"]["authorization"].startswith("Bearer sk-ant-oat01-")
        provider.rotate()
