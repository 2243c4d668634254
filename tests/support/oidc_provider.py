"""A real OpenID provider that we did not write (npm `oidc-provider`), started for one test, over TLS on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.pki import throwaway_ca, throwaway_server

SCRIPT = Path(__file__).parents[1] / "npm" / "oidc_provider.mjs"
HOST = "sso.corp.example"
NAME, SECRET = "agent", "agent-secret"
CLIENT: dict[str, Any] = {
    "client_id": NAME,
    "client_secret": SECRET,
    "id_token_signed_response_alg": "ES256",
    "grant_types": ["client_credentials"],
    "redirect_uris": [],
    "response_types": [],
}


def require_provider() -> None:
    """Skip the test where node or the package is missing, saying so."""
    if shutil.which("node") is None or not (SCRIPT.parent / "node_modules" / "oidc-provider").exists():
        pytest.skip("needs node and the npm packages of tests/npm (make installs them where node is)")


@dataclass
class OIDCProvider:
    """A provider that can be restarted with other keys; `resources` maps a resource's URL to its scopes."""

    folder: Path
    resources: dict[str, str]
    port: int = 0
    clients: list[dict[str, Any]] = field(default_factory=lambda: [CLIENT])
    options: dict[str, Any] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None

    @property
    def issuer(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "oidc-ca.pem"

    async def start(self, kid: str) -> None:
        """Start, or start again, with one fresh signing key of that id."""
        await self.stop()
        algorithm = jwt.algorithms.ECAlgorithm
        key = json.loads(algorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))
        settings = {
            "issuer": self.issuer,
            "port": self.port,
            "cert": str(self.folder / "oidc.pem"),
            "key": str(self.folder / "oidc.key"),
            "keys": [{**key, "kid": kid, "alg": "ES256", "use": "sig"}],
            "clients": self.clients,
            "resources": self.resources,
            **self.options,
        }
        self._process = await asyncio.create_subprocess_exec(
            "node", str(SCRIPT), json.dumps(settings), stdout=asyncio.subprocess.PIPE, cwd=SCRIPT.parent
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            while (line := await self._process.stdout.readline()).strip() != b"ready":
                assert line, "the provider ended before it listened"

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
            self._process = None

    async def token(self, resource: str, scope: str) -> str:
        """An access token for a resource, by the client-credentials grant."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
            answer = await client.post(
                f"https://127.0.0.1:{self.port}/token",
                data={"grant_type": "client_credentials", "resource": resource, "scope": scope},
                auth=(NAME, SECRET),
                headers={"Host": f"{HOST}:{self.port}"},
                extensions={"sni_hostname": HOST},
                timeout=30,
            )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


@asynccontextmanager
async def oidc_provider(folder: Path, resources: dict[str, str], **options: Any) -> AsyncIterator[OIDCProvider]:
    """A running provider with a key `k1`."""
    require_provider()
    ca = throwaway_ca("sso CA")
    server = throwaway_server(ca, HOST)
    (folder / "oidc-ca.pem").write_bytes(ca.certificate_pem)
    (folder / "oidc.pem").write_bytes(server.certificate_pem)
    (folder / "oidc.key").write_bytes(server.key_pem)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provider = OIDCProvider(folder, resources, port, options=options)
    try:
        await provider.start("k1")
        yield provider
    finally:
        await provider.stop()
