"""Carry out a Dockerfile without a container engine: each stage a folder, each step a process in a sandbox.

The sandbox (bubblewrap) shows this machine's system read-only, and the stage's own folders in their places, so the
steps run word for word.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = ("bin", "lib", "lib64", "sbin", "usr", "root", "home", "etc")
STAGE_FOLDERS = ("src", "opt")


@dataclass
class Stage:
    """What a stage has made: files in `root`, settings beside them."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)


@dataclass
class Build:
    """Carries out the stages that `target` needs."""

    dockerfile: Path
    context: Path
    work: Path
    stages: dict[str, Stage] = field(default_factory=dict)

    def run(self, target: str) -> Stage:
        for name, base, steps in parse(self.dockerfile):
            if name in self.needed(target) and name not in self.stages:
                self.stages[name] = self._start(name, base)
                for instruction, rest in steps:
                    self._step(self.stages[name], instruction, rest)
        return self.stages[target]

    def needed(self, target: str) -> set[str]:
        found = {target}
        for name, base, steps in reversed(parse(self.dockerfile)):
            if name in found:
                found.add(base)
                found |= {rest.split()[0].removeprefix("--from=") for _, rest in steps if rest.startswith("--from=")}
        return found

    def _start(self, name: str, base: str) -> Stage:
        root = self.work / name
        if base in self.stages:
            shutil.copytree(self.stages[base].root, root, symlinks=True)
            earlier = self.stages[base]
            return Stage(root, dict(earlier.environment), earlier.workdir)
        root.mkdir(parents=True)
        return Stage(root)

    def _step(self, stage: Stage, instruction: str, rest: str) -> None:
        if instruction == "ENV":
            for name, _, value in (pair.partition("=") for pair in shlex.split(rest)):
                stage.environment[name] = value
        elif instruction == "WORKDIR":
            stage.workdir = rest
            (stage.root / rest.strip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            stage.user = rest
        elif instruction == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif instruction == "HEALTHCHECK":
            stage.healthcheck = json.loads(rest.partition("CMD ")[2] or "[]")
        elif instruction == "COPY":
            self._copy(stage, rest.split())
        elif instruction == "RUN":
            self._run(stage, rest)
        else:
            assert instruction == "LABEL", instruction

    def _copy(self, stage: Stage, words: list[str]) -> None:
        options = [word for word in words if word.startswith("--")]
        *sources, destination = [word for word in words if not word.startswith("--")]
        source_root = self.context
        for option in options:
            if option.startswith("--from="):
                source_root = self.stages[option.removeprefix("--from=")].root
        target = stage.root / stage.workdir.strip("/") / destination.lstrip("/" if destination[0] == "/" else "")
        if destination.startswith("/"):
            target = stage.root / destination.strip("/")
        for source in sources:
            origin = source_root / source.strip("/")
            into = target / origin.name if destination.endswith("/") else target
            if origin.is_dir():
                shutil.copytree(origin, into, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, into)

    def _run(self, stage: Stage, command: str) -> None:
        for folder in STAGE_FOLDERS:
            (stage.root / folder).mkdir(exist_ok=True)
        done = subprocess.run(
            [*sandbox(stage, writable=True), "/bin/sh", "-c", command],
            env={**clean_environment(), **stage.environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def clean_environment() -> dict[str, str]:
    """A PATH that finds this interpreter as `python`, and how pip reaches its index here; nothing else."""
    base = Path(os.path.realpath(sys.executable)).parent
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    return {"PATH": f"{base}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/root"), **kept}


def sandbox(
    stage: Stage, *, writable: bool = False, network: bool = True, mounts: dict[str, tuple[str, Path]] | None = None
) -> list[str]:
    """The bwrap command that shows `stage` over this machine's system.

    `mounts`: place inside to (`bind` or `ro-bind`, path outside).
    """
    command = ["bwrap", "--die-with-parent", "--unshare-user", "--unshare-pid", "--proc", "/proc", "--dev", "/dev"]
    if not network:
        command.append("--unshare-net")
    for name in SYSTEM:
        if Path("/", name).exists() and not (name == "etc" and not writable):
            command += ["--ro-bind", f"/{name}", f"/{name}"]
    if writable:
        command += ["--tmpfs", "/tmp", "--chdir", stage.workdir]
    for path in sorted(stage.root.iterdir()):
        command += ["--bind" if writable else "--ro-bind", str(path), f"/{path.name}"]
    if Path("/opt/pypi").exists() and writable:
        for folder in sorted(Path("/opt").iterdir()):
            command += ["--ro-bind", str(folder), str(folder)]
    for place, (kind, path) in (mounts or {}).items():
        command += [f"--{kind}", str(path), place]
    if stage.user:
        uid, _, gid = stage.user.partition(":")
        command += ["--uid", uid, "--gid", gid, "--remount-ro", "/"]
    return command


def parse(dockerfile: Path) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Its stages: name, base, and the steps as instruction and rest."""
    stages: list[tuple[str, str, list[tuple[str, str]]]] = []
    text = dockerfile.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "ARG")):
            continue
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append((name, base, []))
        else:
            stages[-1][2].append((instruction, rest.strip()))
    return stages
