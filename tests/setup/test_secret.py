"""Output to a Kubernetes Secret: created, updated, contended, forbidden, missing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from qanat.clock import SystemClock
from qanat.pki.material import load_pair
from qanat.setup.errors import Misused, OutputFailed, SetupRefused
from qanat.setup.init import run_init
from qanat.setup.options import InitOptions, SignIn
from qanat.setup.output import open_output
from qanat.setup.renew import RenewOptions, run_renew
from tests.support.kubernetes_api import Cluster, cluster
from tests.support.tunnels_api import API_KEY, TunnelsAPI, tunnels_api

SPEC = "k8s-secret:mcp-tunnel"
FILES = {"tunnel-id", "tunnel-domain", "tunnel-token", "ca.crt", "ca.key", "tls.crt", "tls.key", "token-version"}


@pytest.fixture
def api() -> Iterator[TunnelsAPI]:
    with tunnels_api() as running:
        yield running


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as running:
        yield running


async def init(api: TunnelsAPI, pod: Cluster, version: str = "1") -> list[str]:
    """What `setup init` says in the pod."""
    said: list[str] = []
    options = InitOptions(api.url, SignIn(api_token=SecretStr(API_KEY)), token_version=version)
    async with open_output(SPEC, pod.environment, pod.service_account) as output:
        await run_init(options, output, SystemClock(), said.append)
    return said


async def renew(pod: Cluster, options: RenewOptions | None = None) -> list[str]:
    said: list[str] = []
    async with open_output(SPEC, pod.environment, pod.service_account) as output:
        await run_renew(options or RenewOptions(), output, SystemClock(), said.append)
    return said


async def test_everything_lands_in_one_secret(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    assert set(pod.files()) == FILES
    secret = pod.secrets["mcp-tunnel"]
    assert secret["type"] == "Opaque"
    assert secret["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "mcp-tunnel-setup"}
    load_pair(pod.files()["ca.crt"], pod.files()["ca.key"])
    load_pair(pod.files()["tls.crt"], pod.files()["tls.key"])


async def test_a_second_run_writes_nothing(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    before = pod.files()
    pod.requests.clear()
    await init(api, pod)
    assert pod.files() == before
    assert [verb for verb, _ in pod.requests] == ["get"]


async def test_rotation_and_renewal_keep_what_others_put_there(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    pod.put("mcp-tunnel", {"note": b"ours"})
    said = await init(api, pod, version="2")
    await renew(pod)
    assert pod.files()["note"] == b"ours"
    assert pod.files()["token-version"] == b"2"
    assert any("rollout restart" in line for line in said)


async def test_renewal_asks_the_cluster_and_nobody_else(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    before = pod.files()
    api.requests.clear()
    pod.requests.clear()
    await renew(pod)
    assert {name for name, data in pod.files().items() if data != before[name]} == {"tls.crt", "tls.key"}
    assert [verb for verb, _ in pod.requests] == ["get", "patch"]
    assert not api.requests


async def test_another_writer_of_other_keys_loses_nothing(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    meanwhile = iter([b"1", b"2"])

    def interfere() -> None:
        value = next(meanwhile, None)
        if value:
            pod.put("mcp-tunnel", {"note": value})

    pod.before_write = interfere
    before = pod.files()
    await renew(pod)
    assert pod.files()["note"] == b"2"
    assert pod.files()["tls.key"] != before["tls.key"]


async def test_another_writer_of_the_same_keys_wins(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    pod.before_write = lambda: pod.put("mcp-tunnel", {"tls.key": str(datetime.now(UTC)).encode()})
    with pytest.raises(OutputFailed, match="changed by somebody else"):
        await renew(pod)


async def test_a_writer_that_never_rests_is_given_up_on(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    pod.before_write = lambda: pod.put("mcp-tunnel", {"note": b"again"})
    with pytest.raises(OutputFailed, match="run again"):
        await renew(pod)


async def test_a_secret_that_appears_meanwhile_is_not_overwritten(api: TunnelsAPI, pod: Cluster) -> None:
    def appear() -> None:
        pod.put("mcp-tunnel", {".creating": b"{}"})
        pod.before_write = lambda: None

    pod.before_write = appear
    with pytest.raises(OutputFailed, match="changed by somebody else"):
        await init(api, pod)
    assert not api.tunnels


async def test_a_secret_deleted_meanwhile_is_an_error(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    async with open_output(SPEC, pod.environment, pod.service_account) as output:
        await output.read()
        pod.secrets.clear()
        with pytest.raises(OutputFailed, match='update Secret tunnels/mcp-tunnel: 404 secrets "mcp-tunnel" not found'):
            await output.write({"new": b"x"})
    assert not pod.secrets


@pytest.mark.parametrize("verb", ["get", "create", "patch"])
async def test_a_missing_right_is_named(api: TunnelsAPI, pod: Cluster, verb: str) -> None:
    if verb == "patch":
        await init(api, pod)
    pod.forbidden = {verb}
    with pytest.raises(SetupRefused) as refused:
        await init(api, pod, version="2")
    assert "service account may not" in str(refused.value)
    assert "tunnels/mcp-tunnel" in str(refused.value)
    assert f"cannot {verb}" in str(refused.value)


async def test_a_bad_token_is_named(api: TunnelsAPI, pod: Cluster) -> None:
    (pod.service_account / "token").write_text("stale")
    with pytest.raises(SetupRefused, match="not signed in"):
        await init(api, pod)


async def test_a_missing_secret_cannot_be_renewed(pod: Cluster) -> None:
    with pytest.raises(SetupRefused, match="no tunnel-domain is stored"):
        await renew(pod)


async def test_an_unreadable_secret_is_an_error(api: TunnelsAPI, pod: Cluster) -> None:
    await init(api, pod)
    pod.secrets["mcp-tunnel"]["data"]["ca.crt"] = "%%%"
    with pytest.raises(OutputFailed, match="cannot be understood"):
        await renew(pod)


async def test_an_unreachable_cluster_is_an_error(pod: Cluster) -> None:
    environment = pod.environment | {"KUBERNETES_SERVICE_PORT": "1"}
    async with open_output(SPEC, environment, pod.service_account) as output:
        with pytest.raises(OutputFailed, match="cannot reach the cluster's API"):
            await output.read()


async def test_outside_a_pod_it_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misused, match="inside a pod only"):
        async with open_output(SPEC, {}, tmp_path):
            pass
    with pytest.raises(OutputFailed, match="namespace: no such file"):
        async with open_output(SPEC, {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}, tmp_path):
            pass


async def test_no_key_of_the_ca_leaves_in_the_clear(api: TunnelsAPI, pod: Cluster) -> None:
    said = await init(api, pod)
    assert base64.b64encode(pod.files()["ca.key"]).decode() not in "\n".join(said)
