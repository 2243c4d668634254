"""The stand-ins for kubectl and helm: Secrets are folders, a release is what its chart renders, pods are processes."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.docs.shims import ENTRYPOINTS, STATE, qanat


def kubectl(words: list[str]) -> None:
    words = words[2:] if words[0] == "-n" else words
    secrets = STATE / "secrets"
    if words[:2] == ["create", "secret"]:
        make_secret(secrets / words[3], words[4:])
    elif words[:2] == ["delete", "secret"]:
        for path in (secrets / words[2]).iterdir():
            path.unlink()
        (secrets / words[2]).rmdir()
    elif words[:2] == ["get", "secret"]:
        key = re.fullmatch(r"jsonpath=\{\.data\.([\w-]+)\}", words[-1].replace("\\", ""))
        assert key, words
        sys.stdout.write(base64.b64encode((secrets / words[2] / key[1]).read_bytes()).decode())
    elif words[:2] == ["create", "job"]:
        job = json.loads((STATE / "release.json").read_text())
        run_pod(next(o for o in job if o["kind"] == "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    elif words[:2] == ["rollout", "status"]:
        check_mounts(pod_of(words[2]))
    elif words[0] == "exec":
        assert words[2] == "--", words
        run_mounted(pod_of(words[1]), words[3:])
    else:
        assert words[:2] == ["create", "namespace"], words


def make_secret(folder: Path, words: list[str]) -> None:
    if folder.exists():
        sys.exit(f"secret {folder.name} already exists")
    folder.mkdir(parents=True)
    for word in words:
        flag, _, rest = word.partition("=")
        if flag in ("--cert", "--key"):
            (folder / ("tls.crt" if flag == "--cert" else "tls.key")).write_bytes(Path(rest).read_bytes())
            continue
        key, _, value = rest.partition("=")
        (folder / key).write_bytes(Path(value).read_bytes() if flag == "--from-file" else value.encode())


def helm(words: list[str]) -> None:
    from helm_python import Chart

    verb, name = words[0], words[1]
    if verb == "uninstall":
        (STATE / "release.json").unlink()
        return
    assert verb in ("install", "upgrade"), words
    values = yaml.safe_load(Path(words[words.index("-f") + 1]).read_text())
    for flag, setting in itertools.pairwise(words):
        if flag in ("--set", "--set-string"):
            path, _, value = setting.partition("=")
            *folders, key = path.split(".")
            section = values
            for folder in folders:
                section = section.setdefault(folder, {})
            section[key] = value if flag == "--set-string" or value not in ("true", "false") else value == "true"
    with Chart.load(words[2]) as chart:
        texts = chart.render(values, name=name, namespace="mcp-tunnel", is_upgrade=verb == "upgrade")
    manifests = [text for path, text in texts.items() if not path.endswith("NOTES.txt")]
    objects = [item for text in manifests for item in yaml.safe_load_all(text) if item]
    (STATE / "release.json").write_text(json.dumps(objects))
    for item in objects:
        hook = item["metadata"].get("annotations", {}).get("helm.sh/hook", "")
        if item["kind"] == "Job" and f"pre-{verb}" in hook:
            run_pod(item["spec"]["template"]["spec"])


def run_pod(spec: dict[str, Any]) -> None:
    """A setup pod as a process; the Secret it writes is a folder."""
    container = spec["containers"][0]
    if "command" not in container:  # the operator's image, whose entry point is the command itself
        run_mounted(spec, ["/qanat", *container["args"]])
        return
    environment = {"PATH": os.environ["PATH"]}
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        secret = STATE / "secrets" / reference["name"] / reference["key"] if reference else None
        environment[variable["name"]] = secret.read_text() if secret else variable["value"]
    arguments = []
    for word in container["args"]:
        flag, found, name = word.partition("k8s-secret:")
        if found:
            (STATE / "secrets" / name).mkdir(parents=True, exist_ok=True)
        arguments.append(f"{flag}dir:{STATE / 'secrets' / name}" if found else word)
    subprocess.run(qanat([*ENTRYPOINTS[container["command"][0]], *arguments]), env=environment, check=True, timeout=60)


def pod_of(deployment: str) -> dict[str, Any]:
    """The pod's spec of `deploy/name` in the release."""
    objects: list[dict[str, Any]] = json.loads((STATE / "release.json").read_text())
    name = deployment.partition("/")[2]
    found = next(item for item in objects if (item["kind"], item["metadata"]["name"]) == ("Deployment", name))
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def run_mounted(spec: dict[str, Any], words: list[str]) -> None:
    """A command of a pod's with what the pod mounts: Secrets and ConfigMaps are folders."""
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    places = {mount["mountPath"]: folder(sources[mount["name"]]) for mount in spec["containers"][0]["volumeMounts"]}
    for path in places["/etc/qanat/config"].glob("*.yaml"):
        text = path.read_text()
        for place, here in places.items():
            text = text.replace(f"{place}/", f"{here}/").replace(f"{place}\n", f"{here}\n")
        path.write_text(text)
    words = [word.replace("/etc/qanat/config", str(places["/etc/qanat/config"])) for word in words]
    subprocess.run(qanat([*ENTRYPOINTS[words[0]], *words[1:]]), check=True, timeout=60)


def folder(volume: dict[str, Any]) -> Path:
    """Where a volume is here; a ConfigMap is written out first."""
    if "secret" in volume:
        return STATE / "secrets" / str(volume["secret"]["secretName"])
    here = STATE / "volumes" / str(volume["name"])
    here.mkdir(parents=True, exist_ok=True)
    if "configMap" in volume:
        objects = json.loads((STATE / "release.json").read_text())
        wanted = ("ConfigMap", volume["configMap"]["name"])
        data = next(item["data"] for item in objects if (item["kind"], item["metadata"]["name"]) == wanted)
        for name, text in data.items():
            (here / name).write_text(text)
    return here


def check_mounts(spec: dict[str, Any]) -> None:
    """A pod starts only when the Secrets it names have the keys it names."""
    wanted = [
        (v["secret"]["secretName"], i["key"]) for v in spec["volumes"] if "secret" in v for i in v["secret"]["items"]
    ]
    variables = [variable for container in spec["containers"] for variable in container.get("env", [])]
    references = [v["valueFrom"]["secretKeyRef"] for v in variables if "valueFrom" in v]
    for name, key in [*wanted, *((reference["name"], reference["key"]) for reference in references)]:
        if not (STATE / "secrets" / name / key).exists():
            sys.exit(f"CreateContainerConfigError: Secret {name} has no key {key}")
    print("successfully rolled out")
