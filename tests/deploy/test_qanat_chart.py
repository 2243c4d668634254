"""The operator's chart, rendered by Helm's own engine for a matrix of values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from helm_python.errors import HelmError

from qanat.config import validate as read
from qanat.control.config import ControlConfig
from qanat.edge.config import EdgeConfig
from qanat.gateway.config import GatewayConfig
from tests.deploy.test_mcp_tunnel import merged
from tests.support.helm import Object, kinds, lint_errors, one, pods, policy_violations, render, validate

GOLDEN = Path(__file__).parent / "golden"
MINIMAL: dict[str, Any] = {
    "image": {"digest": f"sha256:{'c' * 64}"},
    "baseDomain": "tunnel.example.net",
    "control": {"publicUrl": "https://api.tunnels.example.net"},
}
SIGN_ON: dict[str, Any] = {
    "issuer": "https://sso.example.com",
    "client_id": "qanat-console",
    "manage": ["tunnel-admins"],
    "read_only": ["staff"],
}
MATRIX: dict[str, dict[str, Any]] = {
    "minimal": MINIMAL,
    "rotating": merged(MINIMAL, {"secrets": {"nextMasterKey": "qanat-master-key-2"}}),
    "full": merged(
        MINIMAL,
        {
            "secrets": {"consoleClient": "console-client"},
            "control": {
                "config": {"limits": {"tunnels_per_organization": 100}, "console": {"single_sign_on": SIGN_ON}},
                "ingress": {"enabled": True, "className": "nginx", "host": "api.x.net", "tlsSecretName": "api-tls"},
            },
            "edge": {
                "drainSeconds": 120,
                "config": {"client_organizations": [{"san": "gateway-1", "organizations": ["org"]}]},
                "connectorService": {"annotations": {"lb": "nlb"}, "loadBalancerSourceRanges": ["203.0.113.0/24"]},
                "autoscaling": {"enabled": True},
            },
            "gateway": {
                "config": {"models": {"m": {"upstream": "demo"}}},
                "ingress": {"enabled": True, "host": "gw.x.net", "tlsSecretName": "gw-tls", "annotations": {"a": "b"}},
                "autoscaling": {"enabled": True},
                "extraEnv": [
                    {"name": "ANTHROPIC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "model", "key": "key"}}}
                ],
            },
            "networkPolicy": {
                "ingressFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            },
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"pool": "edge"},
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MATRIX)
def test_every_object_is_valid_and_keeps_the_policy(case: str) -> None:
    objects = render("qanat", MATRIX[case])
    for item in objects:
        validate(item)
    assert policy_violations(objects) == []
    assert lint_errors("qanat", MATRIX[case]) == []


@pytest.mark.parametrize("case", MATRIX)
def test_the_render_is_the_reviewed_one(case: str) -> None:
    text = yaml.dump_all(render("qanat", MATRIX[case]), Dumper=yaml.CSafeDumper, sort_keys=True)
    golden = GOLDEN / f"qanat-{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "render differs; review it with UPDATE_GOLDEN=1 and git diff"


def config(objects: list[Object], part: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(one(objects, "ConfigMap", f"qanat-{part}")["data"][f"{part}.yaml"])
    return found


@pytest.mark.parametrize("case", MATRIX)
def test_every_part_understands_its_file(case: str) -> None:
    objects = render("qanat", MATRIX[case])
    control = read(ControlConfig, config(objects, "control"))
    gateway = read(GatewayConfig, config(objects, "gateway"))
    edge = read(EdgeConfig, config(objects, "edge"))
    assert gateway.edge is not None
    assert gateway.edge.base_domain == control.domain_base
    assert edge.cluster is not None


@pytest.mark.parametrize("case", ["minimal", "rotating"])
def test_every_file_a_part_reads_is_mounted(case: str) -> None:
    objects = render("qanat", MATRIX[case])
    for name, spec in pods(objects):
        part = name.rpartition("-")[2]
        text = str(config(objects, "control" if part == "migrate" else part))
        mounted = set()
        for volume in spec["volumes"]:
            places = [
                m["mountPath"] for c in spec["containers"] for m in c["volumeMounts"] if m["name"] == volume["name"]
            ]
            keys = [item["path"] for item in volume.get("secret", {}).get("items", [])]
            mounted |= {f"{place}/{key}" for place in places for key in keys}
        named = {word.strip("',{}[]") for word in text.split() if "/etc/qanat/" in word}
        assert named
        assert named == mounted, name


def test_the_init_container_fills_in_the_pods_own_address(tmp_path: Path) -> None:
    objects = render("qanat", MINIMAL)
    spec = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    template = one(objects, "ConfigMap", "qanat-edge")["data"]["edge.yaml"]
    (tmp_path / "template").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "template" / "edge.yaml").write_text(template)
    code = spec["initContainers"][0]["args"][0].replace('"/', f'"{tmp_path}/')
    environment = {"POD_NAME": "qanat-edge-0", "POD_IP": "10.1.2.3", "REDIS_URL": "rediss://u:p@redis:6379/0"}
    subprocess.run([sys.executable, "-IBc", code], check=True, env=environment, timeout=30)
    edge = read(EdgeConfig, yaml.safe_load((tmp_path / "config" / "edge.yaml").read_text()))
    assert edge.name == "qanat-edge-0"
    assert edge.cluster is not None
    assert edge.cluster.advertise_host == "10.1.2.3"
    assert Template(template).is_valid()


def test_an_edge_gets_more_time_than_its_drain() -> None:
    for case, seconds in (("minimal", 70), ("full", 130)):
        spec = one(render("qanat", MATRIX[case]), "StatefulSet")["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] == seconds


def test_a_gateway_gets_more_time_than_its_requests() -> None:
    for text, seconds in (("30s", 60), ("5m", 310), ("90s", 100)):
        objects = render("qanat", merged(MINIMAL, {"gateway": {"config": {"shutdown_timeout": text}}}))
        spec = one(objects, "Deployment", "qanat-gateway")["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] == seconds


def test_the_edge_scales_on_streams() -> None:
    objects = render("qanat", MATRIX["full"])
    scaler = one(objects, "HorizontalPodAutoscaler", "qanat-edge")["spec"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == "qanat_edge_streams"
    assert "replicas" not in one(objects, "StatefulSet")["spec"]


def test_upgrades_migrate_first() -> None:
    job = one(render("qanat", MINIMAL), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "migrate"


def test_while_rotating_every_control_plane_reads_both_master_keys() -> None:
    objects = render("qanat", MATRIX["rotating"])
    control = read(ControlConfig, config(objects, "control"))
    assert [str(path) for path in control.master_key_paths] == [
        "/etc/qanat/master-key/master.key",
        "/etc/qanat/next-master-key/master.key",
    ]
    for name, spec in pods(objects):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        reads = name.endswith(("-control", "-migrate"))
        assert ("next-master-key" in volumes) is reads, name
        if reads:
            assert volumes["next-master-key"]["secret"]["secretName"] == "qanat-master-key-2"


def test_no_secret_is_made_by_the_chart() -> None:
    assert "Secret" not in kinds(render("qanat", MATRIX["full"]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (merged(MINIMAL, {"baseDomain": ""}), "baseDomain is required"),
        (merged(MINIMAL, {"control": {"publicUrl": ""}}), "control.publicUrl is required"),
        (merged(MINIMAL, {"control": {"publicUrl": "http://x"}}), "publicUrl"),
        (merged(MINIMAL, {"image": {"digest": ""}}), "image.digest is required"),
        (merged(MINIMAL, {"gateway": {"ingress": {"enabled": True}}}), "gateway.ingress.host"),
        (merged(MINIMAL, {"gateway": {"config": {"shutdown_timeout": "1h"}}}), "gateway.config.shutdown_timeout"),
        (merged(MINIMAL, {"gateway": {"config": {"models": {"m": {"api_key": "k"}}}}}), "models.m.api_key"),
        (merged(MINIMAL, {"egde": {}}), "egde"),
        (merged(MINIMAL, {"secrets": {"consoleClient": "x"}}), "control.config.console.single_sign_on"),
    ],
)
def test_what_cannot_work_does_not_render(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError) as failed:
        render("qanat", values)
    assert said in str(failed.value)
