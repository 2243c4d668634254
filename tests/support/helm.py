"""Render charts with Helm's own engine, and judge the objects: Kubernetes' schemas, and our policy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, lint

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "deploy" / "helm"
OLDEST_KUBERNETES = "1.30"
CUSTOM = {"PodMonitor", "ServiceMonitor"}  # their schemas come with the operator that reads them

Object = dict[str, Any]


def render(chart: str, values: dict[str, Any], *, release: str | None = None, upgrade: bool = False) -> list[Object]:
    """The objects of a release, in the order of their names."""
    return deepcopy(_render(chart, json.dumps(values), release or chart, upgrade))


@cache
def _render(chart: str, values: str, release: str, upgrade: bool) -> list[Object]:
    with Chart.load(CHARTS / chart) as loaded:
        texts = loaded.render(json.loads(values), name=release, namespace="tunnels", is_upgrade=upgrade)
    objects = [
        item
        for path, text in texts.items()
        if not path.endswith("NOTES.txt")
        for item in yaml.load_all(text, yaml.CSafeLoader)
        if item is not None
    ]
    return sorted(objects, key=lambda item: (item["kind"], item["metadata"]["name"]))


def lint_errors(chart: str, values: dict[str, Any]) -> list[str]:
    """What Helm's linter calls an error."""
    report = lint(CHARTS / chart, values)
    return [message["error"] for message in report["messages"] if message["severity"] >= 2]


def validate(item: Object) -> None:
    """Against the schemas of the oldest and the newest Kubernetes we speak of; raises on an unknown field too."""
    import kubernetes_validate  # over a second of work, which few tests need

    if item["kind"] in CUSTOM:
        return
    for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(item, version, strict=True)


def kinds(objects: list[Object]) -> dict[str, list[str]]:
    """Kind to the names of its objects."""
    found: dict[str, list[str]] = {}
    for item in objects:
        found.setdefault(item["kind"], []).append(item["metadata"]["name"])
    return found


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of that kind (and name)."""
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, (kind, name, kinds(objects))
    return found[0]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod that these objects make: the maker's name, and the pod's spec."""
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield f"{item['kind']}/{item['metadata']['name']}", spec["template"]["spec"]


def policy_violations(objects: list[Object], needs_cluster: tuple[str, ...] = ()) -> list[str]:
    """Where the objects break our rules. Only pods of the service accounts `needs_cluster` may hold a token."""
    problems = [problem for name, spec in pods(objects) for problem in _pod_problems(name, spec, needs_cluster)]
    for item in objects:
        where = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "ConfigMap":
            problems += [f"{where}: {found}" for found in _secrets_in(item.get("data", {}))]
        if item["kind"] in ("Role", "ClusterRole"):
            problems += [f"{where}: wildcard" for rule in item["rules"] if "*" in (*rule["verbs"], *rule["resources"])]
        if item["kind"] == "ClusterRole":
            problems.append(f"{where}: rights over the whole cluster")
    return problems


def _pod_problems(name: str, spec: Object, needs_cluster: tuple[str, ...]) -> Iterator[str]:
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("runAsUser") in (None, 0):
        yield f"{name}: may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name}: no seccomp profile"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{name}: {key}"
    if spec.get("automountServiceAccountToken") is not False and spec.get("serviceAccountName") not in needs_cluster:
        yield f"{name}: holds a service account token it does not need"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"{name}: mounts the host's {volume['hostPath']['path']}"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        yield from (f"{name}/{container['name']}: {problem}" for problem in _container_problems(container))


def _container_problems(container: Object) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("privileged"):
        yield "privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may escalate privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield "root file system is writable"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get("add"):
        yield "keeps capabilities"
    if not {"cpu", "memory"} <= set(container.get("resources", {}).get("limits", {})):
        yield "no limits"
    if not re.fullmatch(r".+@sha256:[0-9a-f]{64}", container["image"]):
        yield f"image is not pinned by digest: {container['image']}"
    for mount in container.get("volumeMounts", []):
        if "subPath" in mount:
            yield f"subPath at {mount['mountPath']}: no reload"
    for variable in container.get("env", []):
        if "value" in variable and re.search(r"TOKEN$|KEY$|PASSWORD|SECRET", variable["name"]):
            yield f"{variable['name']} in the clear"


_SECRET = re.compile(
    r"PRIVATE KEY|eyJ[A-Za-z0-9_-]{16,}|sk-[a-z]+-|://[^/\s:]+:[^@/\s]+@|(?m:^\s*\w*(password|api_key):\s*\S)"
)


def _secrets_in(data: dict[str, str]) -> list[str]:
    return [f"{key} holds a secret" for key, text in data.items() if _SECRET.search(text)]
