"""Setup signs in by workload identity at the real control plane, as a pod in a cluster would."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from qanat.api.http import APIRefused, Call, JSONClient
from qanat.api.tunnels import VERSION, Certificate, TunnelsClient
from qanat.clock import SystemClock
from qanat.control import server as control
from qanat.control.config import ControlConfig
from qanat.ids import TunnelID
from qanat.setup.archive import run_archive
from qanat.setup.errors import SetupRefused
from qanat.setup.init import run_init
from qanat.setup.options import InitOptions, SignIn
from qanat.setup.output import open_output
from tests.support.pki import now
from tests.support.requirements import requirement

ISSUER = "https://kubernetes.default.svc.cluster.local"
SUBJECT = "system:serviceaccount:mcp-tunnel:mcp-tunnel-setup"
AUDIENCE = "https://api.tunnels.example.net"

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """An issuer of identity tokens, trusted by a rule of a running control plane."""

    url: str
    key: ec.EllipticCurvePrivateKey
    organization_id: str
    rule_id: str
    server: control.ControlServer

    def sign_in(self, folder: Path, audience: str = AUDIENCE, subject: str = SUBJECT) -> SignIn:
        """With a projected token in a file."""
        claims = {"iss": ISSUER, "sub": subject, "aud": [audience], "iat": now(), "exp": now() + timedelta(minutes=10)}
        path = folder / "identity-token"
        path.write_text(jwt.encode(claims, self.key, "ES256", {"kid": "k1"}))
        return SignIn(rule_id=self.rule_id, organization_id=self.organization_id, identity_token_file=path)


async def trust(client: JSONClient, keys: list[dict[str, Any]]) -> str:
    """The id of a rule that lets SUBJECT manage tunnels."""

    async def post(kind: str, **body: Any) -> str:
        answer = await client.call(Call("POST", f"/v1/organizations/{kind}", body))
        return str(answer["id"])

    account = await post("service_accounts", name="setup")
    issuer = await post(
        "federation_issuers",
        name="cluster",
        issuer_url=ISSUER,
        jwks={"type": "inline", "keys": keys},
        check_jti=False,
    )
    return await post(
        "federation_rules",
        name="setup",
        issuer_id=issuer,
        match={"subject_prefix": SUBJECT, "audience": AUDIENCE},
        target={"type": "service_account", "service_account_id": account},
        oauth_scope="workspace:manage_tunnels",
        applies_to_all_workspaces=True,
    )


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(ECAlgorithm.to_jwk(key.public_key())) | {"kid": "k1", "alg": "ES256", "use": "sig"}
    config = ControlConfig(listen_addr="127.0.0.1:0", data_dir=tmp_path / "control", domain_base="tunnel.example.net")
    async with control.serve(config) as server:
        headers = {
            "authorization": f"Bearer {server.credential.get_secret_value()}",
            "anthropic-version": VERSION,
        }
        async with JSONClient(server.url, headers) as client:
            rule_id = await trust(client, [public])
        yield Cluster(server.url, key, server.bootstrapped.organization_id, rule_id, server)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (folder := tmp_path / "data").mkdir()
    return folder


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.iterdir()}


async def init(cluster: Cluster, data: Path, sign_in: SignIn, version: str = "1") -> list[str]:
    said: list[str] = []
    options = InitOptions(cluster.url, sign_in, token_version=version)
    async with open_output(f"dir:{data}", {}) as output:
        await run_init(options, output, SystemClock(), said.append)
    return said


@requirement("setup:13")
async def test_an_identity_token_provisions_a_stack(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    sign_in = cluster.sign_in(tmp_path)
    assert "ready: tnl_" in "\n".join(await init(cluster, data, sign_in))
    before = contents(data)
    await init(cluster, data, sign_in)
    assert contents(data) == before
    assert "rotated the token" in "\n".join(await init(cluster, data, sign_in, version="2"))


@requirement("setup:16")
@pytest.mark.parametrize("wrong", [{"audience": "api.tunnels.example.net"}, {"subject": f"{SUBJECT}-2"}])
async def test_a_token_that_does_not_match_gets_the_list_of_checks(
    cluster: Cluster, data: Path, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(SetupRefused) as refused:
        await init(cluster, data, cluster.sign_in(tmp_path, **wrong))
    assert "audience" in str(refused.value)
    assert "byte for byte" in str(refused.value)
    assert set(contents(data)) == {".lock"}


@requirement("setup:38")
async def test_archiving_twice_gives_the_same_record_and_ends_everything(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    sign_in = cluster.sign_in(tmp_path)
    await init(cluster, data, sign_in)
    tunnel_id = TunnelID(contents(data)["tunnel-id"].decode())
    said: list[str] = []
    for _ in range(2):
        await run_archive(cluster.url, sign_in, tunnel_id, said.append)
    assert said[0] == said[1]
    async with TunnelsClient(cluster.url, cluster.server.credential) as client:
        certificates: list[Certificate] = await client.list_certificates(tunnel_id, include_archived=True)
        archived_at = (await client.get(tunnel_id)).archived_at
        assert [record.archived_at for record in certificates] == [archived_at]
        with pytest.raises(APIRefused) as dead:
            await client.reveal_token(tunnel_id)
        assert dead.value.error_code == "tunnel_archived"
        domains = {(await client.create()).domain for _ in range(5)}
    assert not any(domain in said[0] for domain in domains)
    with pytest.raises(SetupRefused, match="was archived"):
        await init(cluster, data, sign_in)
