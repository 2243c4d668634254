"""The customer's chart, rendered by Helm's own engine for a matrix of values."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.errors import HelmError

from qanat.proxy.config import ProxyConfig, parse_config
from qanat.proxy.document import Document
from tests.support.helm import Object, kinds, lint_errors, one, pods, policy_violations, render, validate
from tests.support.requirements import requirement

GOLDEN = Path(__file__).parent / "golden"
MINIMAL: dict[str, Any] = {
    "api": {"wif": {"federationRuleId": "fdrl_01rule", "organizationId": "2d5f1c9e-0000-4000-8000-000000000001"}},
    "gateway": {
        "image": {"digest": f"sha256:{'a' * 64}"},
        "config": {"routes": {"tickets": "http://tickets.default.svc.cluster.local:8080"}},
    },
    "cloudflared": {"image": {"digest": f"sha256:{'b' * 64}"}},
}
EXTERNAL: dict[str, Any] = {
    "setup": {"enabled": False},
    "external": {"tunnelTokenSecretName": "mcp-tunnel-token", "serverCertSecretName": "mcp-tunnel-cert"},
    "gateway": {"config": {"tunnel_domain": "q7m2x9ab.tunnel.example.net"}},
}
EGRESS: dict[str, Any] = {
    "networkPolicy": {
        "egress": {
            "enabled": True,
            "mcpServers": [
                {"cidr": "10.20.0.0/16", "ports": [8080]},
                {"podSelector": {"matchLabels": {"app": "kb"}}, "namespaceSelector": {}, "ports": [9000]},
            ],
        }
    }
}


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Values files laid over one another."""
    result: dict[str, Any] = {}
    for layer in layers:
        _merge(result, deepcopy(layer))
    return result


def _merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def external() -> dict[str, Any]:
    return merged(MINIMAL, EXTERNAL) | {"api": {}}


MATRIX: dict[str, dict[str, Any]] = {
    "minimal": MINIMAL,
    "external": external(),
    "egress": merged(MINIMAL, EGRESS),
    "api-key": merged({key: MINIMAL[key] for key in ("gateway", "cloudflared")}, {"api": {"token": "sk-ant-oat01-x"}}),
    "existing-secret": merged(
        {key: MINIMAL[key] for key in ("gateway", "cloudflared")}, {"api": {"existingSecret": "tunnels-key"}}
    ),
    "own-everything": merged(
        MINIMAL,
        {
            "connector": "qanat",
            "edge": {"addresses": ["edge-1.example.net:7844", "edge-2.example.net:7844"], "caConfigMap": "edge-ca"},
            "api": {"url": "https://api.tunnels.example.net", "caConfigMap": "api-ca"},
            "tunnel": {"id": "tnl_01abc", "name": "production", "tokenVersion": 2},
            "setup": {"force": True},
        },
    ),
    "own-token-source": merged(
        MINIMAL,
        {
            "api": {"wif": {"tokenFile": "/var/run/spire/jwt"}},
            "setup": {
                "extraVolumes": [{"name": "spire", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "spire", "mountPath": "/var/run/spire"}],
            },
        },
    ),
    "many": merged(
        MINIMAL,
        EGRESS,
        {
            "replicas": 3,
            "serviceMonitor": {"enabled": True, "from": [{"namespaceSelector": {}}]},
            "gateway": {
                "extraVolumes": [{"name": "ca", "configMap": {"name": "upstream-ca"}}],
                "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/upstream-ca", "readOnly": True}],
                "config": {"shutdown_timeout": "2m", "upstream": {"tls": {"ca_file": "/etc/upstream-ca/ca.crt"}}},
            },
            "nodeSelector": {"pool": "edge"},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "registry"}],
            "podAnnotations": {"team": "platform"},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
        },
    ),
}


@pytest.mark.parametrize("case", ["external", *(pytest.param(case, marks=pytest.mark.slow) for case in MATRIX)])
@pytest.mark.slow
def test_every_object_is_valid_and_keeps_the_policy(case: str) -> None:
    objects = render("mcp-tunnel", MATRIX[case])
    for item in objects:
        validate(item)
    assert policy_violations(objects, ("mcp-tunnel-setup", "mcp-tunnel-cert-renew")) == []
    assert not {"Service", "Ingress"} & set(kinds(objects))
    assert lint_errors("mcp-tunnel", MATRIX[case]) == []


@pytest.mark.parametrize("case", MATRIX)
def test_the_render_is_the_reviewed_one(case: str) -> None:
    text = yaml.dump_all(render("mcp-tunnel", MATRIX[case]), Dumper=yaml.CSafeDumper, sort_keys=True)
    golden = GOLDEN / f"mcp-tunnel-{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "render differs; review it with UPDATE_GOLDEN=1 and git diff"


@pytest.mark.parametrize("case", MATRIX)
def test_the_proxy_understands_the_file_it_gets(case: str) -> None:
    text = one(render("mcp-tunnel", MATRIX[case]), "ConfigMap")["data"]["config.yaml"]
    config: ProxyConfig = parse_config(Document(text.encode(), "config.yaml"), tunnel_domain="x.example.net")
    assert config.listen_addr == ("", 8080)
    assert "tickets" in config.routes


@requirement("setup:27")
def test_the_minimal_values_give_the_documented_objects() -> None:
    found = kinds(render("mcp-tunnel", MINIMAL))
    assert found == {
        "ConfigMap": ["mcp-tunnel"],
        "CronJob": ["mcp-tunnel-cert-renew"],
        "Deployment": ["mcp-tunnel"],
        "Job": ["mcp-tunnel-setup"],
        "NetworkPolicy": ["mcp-tunnel", "mcp-tunnel-cert-renew", "mcp-tunnel-setup"],
        "Role": ["mcp-tunnel-cert-renew", "mcp-tunnel-setup"],
        "RoleBinding": ["mcp-tunnel-cert-renew", "mcp-tunnel-setup"],
        "ServiceAccount": ["mcp-tunnel-cert-renew", "mcp-tunnel-setup"],
    }
    deployment = one(render("mcp-tunnel", MINIMAL), "Deployment")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    assert [container["name"] for container in containers] == ["mcp-proxy", "cloudflared"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def policy(**egress: Any) -> dict[str, Any]:
    return {"networkPolicy": {"egress": egress}}


@requirement("setup:28")
def test_the_users_listen_address_and_files_have_no_effect() -> None:
    own = {"listen_addr": ":1", "tls": {"cert_file": "/x", "key_file": "/y"}}
    objects = render("mcp-tunnel", merged(MINIMAL, {"gateway": {"config": own}}))
    config = yaml.safe_load(one(objects, "ConfigMap")["data"]["config.yaml"])
    assert config["listen_addr"] == ":8080"
    assert config["tls"]["cert_file"] == "/etc/mcp-tunnel/tls/tls.crt"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            merged(external(), {"gateway": {"config": {"tunnel_domain": ""}}}),
            "gateway.config.tunnel_domain is required",
        ),
        (merged(external(), {"external": {"tunnelTokenSecretName": ""}}), "external.tunnelTokenSecretName"),
        (merged(external(), {"external": {"serverCertSecretName": ""}}), "external.serverCertSecretName"),
        (merged(MINIMAL, {"gateway": {"config": {"routes": None}}}), "routes"),
        (merged(MINIMAL, {"gateway": {"image": {"digest": ""}}}), "gateway.image.digest is required"),
        (merged(MINIMAL, {"gateway": {"image": {"digest": "latest"}}}), "digest"),
        (merged(MINIMAL, {"api": {"token": "k"}}), "set either api.token"),
        (MATRIX["api-key"] | {"api": {}}, "setup needs credentials"),
        (merged(MINIMAL, {"api": {"wif": {"organizationId": ""}}}), "are both required"),
        (merged(MINIMAL, {"gatway": {}}), "gatway"),
        (merged(MINIMAL, {"setup": {"forced": True}}), "forced"),
        (merged(MINIMAL, {"gateway": {"config": {"shutdown_timeout": "1h"}}}), "shutdown_timeout"),
        (merged(MINIMAL, {"api": {"url": "http://api.example.net"}}), "/api/url"),
        (merged(MINIMAL, {"api": {"url": "https://api.example.net/v1"}}), "/api/url"),
        (merged(MINIMAL, policy(mcpServers=[{"ports": [8080]}])), "/networkPolicy/egress/mcpServers/0"),
        (merged(MINIMAL, policy(mcpServers=[{"cidr": "10.0.0.0/8", "ports": []}])), "mcpServers/0/ports"),
        (merged(MINIMAL, policy(kubernetesPorts=[])), "/networkPolicy/egress/kubernetesPorts"),
    ],
)
@requirement("setup:29")
def test_what_cannot_work_does_not_render(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError) as failed:
        render("mcp-tunnel", values)
    assert said in str(failed.value)


@requirement("setup:33")
def test_the_old_place_of_the_tunnel_id_is_named() -> None:
    with pytest.raises(HelmError, match=r"move its value to tunnel\.id"):
        render("mcp-tunnel", merged(MINIMAL, {"api": {"wif": {"tunnelId": "tnl_01abc"}}}))


@requirement("setup:30")
def test_external_mode_has_nothing_that_talks_to_an_api() -> None:
    objects = render("mcp-tunnel", external())
    assert set(kinds(objects)) == {"ConfigMap", "Deployment", "NetworkPolicy"}
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert spec["volumes"][1]["secret"]["secretName"] == "mcp-tunnel-cert"
    assert spec["containers"][1]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "mcp-tunnel-token"


def hooks(objects: list[Object]) -> dict[str, str]:
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["annotations"]["helm.sh/hook"]
        for item in objects
        if "helm.sh/hook" in item["metadata"].get("annotations", {})
    }


@requirement("setup:31")
def test_an_upgrade_without_force_leaves_setup_alone() -> None:
    found = hooks(render("mcp-tunnel", MATRIX["api-key"], upgrade=True))
    assert found
    assert set(found.values()) == {"pre-install"}


@requirement("setup:32")
def test_a_new_token_version_with_force_runs_setup_and_rolls_the_pods() -> None:
    before = render("mcp-tunnel", MINIMAL)
    forced = merged(MINIMAL, {"setup": {"force": True}, "tunnel": {"tokenVersion": "2"}})
    after = render("mcp-tunnel", forced, upgrade=True)
    assert set(hooks(after).values()) == {"pre-install,pre-upgrade"}
    assert "--token-version=2" in one(after, "Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    annotations = [one(o, "Deployment")["spec"]["template"]["metadata"]["annotations"] for o in (before, after)]
    assert annotations[0] != annotations[1]


def test_a_changed_route_rolls_the_pods() -> None:
    changed = merged(MINIMAL, {"gateway": {"config": {"routes": {"kb": "http://kb:1"}}}})
    annotations = [
        one(render("mcp-tunnel", values), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        for values in (MINIMAL, changed)
    ]
    assert annotations[0]["checksum/config"] != annotations[1]["checksum/config"]


def test_the_job_runs_after_what_it_needs() -> None:
    objects = render("mcp-tunnel", MATRIX["api-key"])
    weights = {
        item["kind"]: int(item["metadata"]["annotations"]["helm.sh/hook-weight"])
        for item in objects
        if "helm.sh/hook" in item["metadata"].get("annotations", {})
    }
    assert weights.pop("Job") > max(weights.values())
    assert {"ServiceAccount", "Role", "RoleBinding", "Secret"} <= set(weights)


@requirement("setup:34")
def test_helm_does_not_own_the_secret_that_setup_makes() -> None:
    for case in MATRIX:
        for item in render("mcp-tunnel", MATRIX[case]):
            assert (item["kind"], item["metadata"]["name"]) != ("Secret", "mcp-tunnel")


@requirement("setup:35")
def test_with_egress_on_a_pod_reaches_the_edge_its_upstreams_and_names() -> None:
    objects = render("mcp-tunnel", MATRIX["egress"])
    rules = one(objects, "NetworkPolicy", "mcp-tunnel")["spec"]["egress"]
    ports = [[(port["port"], port["protocol"]) for port in rule["ports"]] for rule in rules]
    assert ports == [
        [(53, "UDP"), (53, "TCP")],
        [(7844, "TCP"), (7844, "UDP")],
        [(8080, "TCP")],
        [(9000, "TCP")],
    ]
    assert rules[1]["to"] == [{"ipBlock": {"cidr": "198.41.192.0/19"}}, {"ipBlock": {"cidr": "2606:4700:a0::/44"}}]
    assert all(rule["to"] for rule in rules)
    renew = one(objects, "NetworkPolicy", "mcp-tunnel-cert-renew")["spec"]["egress"]
    assert [port["port"] for rule in renew for port in rule["ports"]] == [53, 53, 443, 6443]
    assert all("0.0.0.0/0" not in str(rule) for rule in renew)


def test_an_empty_list_of_networks_lets_nothing_through() -> None:
    names = ("cloudflaredEgressCIDRs", "apiCIDRs", "kubernetesCIDRs")
    emptied = merged(MINIMAL, EGRESS, {"networkPolicy": {"egress": {name: [] for name in names}}})
    for policy in (item for item in render("mcp-tunnel", emptied) if item["kind"] == "NetworkPolicy"):
        rules = policy["spec"]["egress"]
        assert all(rule["to"] and rule["ports"] for rule in rules), "such a rule allows everything"
        assert {port["port"] for rule in rules for port in rule["ports"]} <= {53, 8080, 9000}


def test_the_policies_let_through_the_ports_that_were_configured() -> None:
    api_elsewhere = {"api": {"url": "https://api.example.net:8787"}}
    edge_elsewhere = {"edge": {"addresses": ["a.example.net:443", "b.example.net"]}}
    objects = render("mcp-tunnel", merged(MINIMAL, EGRESS, api_elsewhere, edge_elsewhere))
    edge = one(objects, "NetworkPolicy", "mcp-tunnel")["spec"]["egress"][1]
    assert [port["port"] for port in edge["ports"]] == [443, 443, 7844, 7844]
    api = one(objects, "NetworkPolicy", "mcp-tunnel-setup")["spec"]["egress"][-1]
    assert api["ports"] == [{"port": 8787, "protocol": "TCP"}]


def test_what_is_scraped_is_where_the_proxy_listens() -> None:
    own = {"serviceMonitor": {"enabled": True}, "gateway": {"config": {"admin": {"listen_addr": "127.0.0.1:9999"}}}}
    objects = render("mcp-tunnel", merged(MINIMAL, own))
    config = yaml.safe_load(one(objects, "ConfigMap")["data"]["config.yaml"])
    assert config["admin"] == {"listen_addr": ":9090"}


def test_another_tunnel_rolls_the_pods() -> None:
    renders = [render("mcp-tunnel", merged(MINIMAL, {"tunnel": {"id": identity}})) for identity in ("tnl_1", "tnl_2")]
    templates = [one(objects, "Deployment")["spec"]["template"] for objects in renders]
    assert templates[0] != templates[1], "the token and the domain are read at the start"


def test_the_older_spelling_of_the_policy_means_the_same() -> None:
    older = merged(
        MINIMAL, {"networkPolicy": {"enabled": True, "mcpServers": [{"cidr": "10.20.0.0/16", "ports": [1]}]}}
    )
    newer = merged(
        MINIMAL,
        {"networkPolicy": {"egress": {"enabled": True, "mcpServers": [{"cidr": "10.20.0.0/16", "ports": [1]}]}}},
    )
    assert render("mcp-tunnel", older) == render("mcp-tunnel", newer)


@requirement("setup:40")
def test_no_pod_mounts_the_ca_key() -> None:
    for case in MATRIX:
        for _, spec in pods(render("mcp-tunnel", MATRIX[case])):
            for volume in spec.get("volumes", []):
                if "secret" in volume:
                    assert [item["key"] for item in volume["secret"]["items"]] == ["tls.crt", "tls.key"]


def test_rights_name_the_one_secret() -> None:
    objects = render("mcp-tunnel", MINIMAL)
    renew = one(objects, "Role", "mcp-tunnel-cert-renew")["rules"]
    assert [(rule["resourceNames"], rule["verbs"]) for rule in renew] == [(["mcp-tunnel"], ["get", "update", "patch"])]
    setup = one(objects, "Role", "mcp-tunnel-setup")["rules"]
    assert [rule["verbs"] for rule in setup if "resourceNames" not in rule] == [["create"]]


def test_replicas_bring_a_disruption_budget() -> None:
    assert "PodDisruptionBudget" not in kinds(render("mcp-tunnel", MINIMAL))
    objects = render("mcp-tunnel", merged(MINIMAL, {"replicaCount": 2}))
    assert one(objects, "Deployment")["spec"]["replicas"] == 2
    assert one(objects, "PodDisruptionBudget")["spec"]["minAvailable"] == 1


def test_pods_get_five_seconds_more_than_the_proxy() -> None:
    spec = one(render("mcp-tunnel", MATRIX["many"]), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 125


def test_another_release_name_does_not_collide() -> None:
    objects = render("mcp-tunnel", MINIMAL, release="staging")
    assert one(objects, "Deployment")["metadata"]["name"] == "staging-mcp-tunnel"
    assert (
        "--output=k8s-secret:staging-mcp-tunnel"
        in one(objects, "Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    )
