"""Stand-ins for docker, helm, kubectl, sudo and systemctl, so that guides can be followed without any of them.

They read the same files (Compose files, charts, units) and run the same commands as processes of this machine, with the
places inside a container or below / mapped to folders of the test. What a guide uses and they do not know is an error.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

STATE = Path(os.environ.get("SHIM_STATE", "/nowhere"))
REPLACE: dict[str, str] = json.loads(os.environ.get("SHIM_REPLACE", "{}"))
ENTRYPOINTS = {
    "/setup": ["qanat", "setup"],
    "/mcp-proxy": ["qanat", "proxy"],
    "/qanat": ["qanat"],
    "/healthcheck": [sys.executable, str(Path(__file__).parents[2] / "deploy/image/healthcheck")],
}
READY = {"qanat-edge.service": "http://127.0.0.1:9464/metrics"}
PATIENCE = 30.0


def replaced(text: str, more: dict[str, str] | None = None) -> str:
    for old, new in {**REPLACE, **(more or {})}.items():
        text = text.replace(old, new)
    return text


def qanat(command: list[str]) -> list[str]:
    """The command with the real program in front."""
    return [str(Path(sys.executable).with_name(command[0])) if command[0] == "qanat" else command[0], *command[1:]]


def run(command: list[str], environment: dict[str, str]) -> None:
    """In the place of this process."""
    sys.stdout.flush()
    os.execve(qanat(command)[0], qanat(command), {"PATH": os.environ["PATH"], **environment})


def start(name: str, command: list[str], environment: dict[str, str]) -> None:
    """In the background, its process id in the state folder."""
    stop(name)
    with (STATE / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            qanat(command),
            env={"PATH": os.environ["PATH"], **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (STATE / f"{name}.pid").write_text(str(process.pid))


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    path = STATE / f"{name}.pid"
    if not path.exists():
        return
    pid = int(path.read_text())
    path.unlink()
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    wait_for(lambda: not alive(pid), f"{name} to end")


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.05)


def ready(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


class Compose:
    """One Compose file in the current folder."""

    def __init__(self, file: str) -> None:
        document = yaml.safe_load(Path(file).read_text())
        self.services: dict[str, dict[str, Any]] = document["services"]
        self.secrets: dict[str, dict[str, str]] = document.get("secrets", {})
        dotenv = Path(".env").read_text() if Path(".env").exists() else ""
        self.environment = dict(re.findall(r"^(\w+)=(.+)$", dotenv, re.MULTILINE)) | dict(os.environ)

    def mounts(self, service: dict[str, Any]) -> dict[str, str]:
        """Place in the container to path here."""
        places = {
            f"/run/secrets/{name}": self.secret(Path(self.secrets[name]["file"]).resolve())
            for name in service.get("secrets", [])
        }
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                if not Path(volume["source"]).exists():
                    sys.exit(f"bind source path does not exist: {volume['source']}")
                places[volume["target"]] = str(Path(volume["source"]).resolve())
            else:
                source, target = volume.split(":")[:2]
                places[target] = str(Path(source).resolve())
        return places

    def secret(self, path: Path) -> str:
        """Where a secret is; as a copy, if it names a place that is elsewhere here."""
        text = path.read_text()
        if replaced(text) == text:
            return str(path)
        copy = STATE / path.name
        copy.write_text(replaced(text))
        return str(copy)

    def image(self, service: dict[str, Any]) -> None:
        variable = re.fullmatch(r"\$\{(\w+):\?.*\}", service["image"])
        value = self.environment.get(variable[1], "") if variable else service["image"]
        if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", value):
            sys.exit(f"image is not pinned by digest: {value!r}")

    def command(self, name: str, words: list[str]) -> list[str]:
        """`words` of a container as a command here: entry points, mounted places, addresses."""
        mounts = self.mounts(self.services[name])
        words = [*ENTRYPOINTS[words[0]], *words[1:]] if words[0] in ENTRYPOINTS else words
        if words[:2] == ["qanat", "proxy"] and not any("-config" in word for word in words):
            words.append("-config=/etc/mcp-gateway/config.yaml")
        return [self.local(replaced(word, mounts), mounts) for word in words]

    def local(self, word: str, mounts: dict[str, str]) -> str:
        """A configuration file that a word names, as a copy in which the places are those here."""
        flag, equals, path = word.rpartition("=")
        if not path.endswith(".yaml"):
            return word
        copy = STATE / Path(path).name
        more = {place + "/": f"{there}/" for place, there in mounts.items() if place == "/data"}
        more |= {place: there for place, there in mounts.items() if place.startswith("/var/")}
        if port := os.environ.get("SHIM_PROXY_PORT"):
            more['":8080"'] = f'"127.0.0.1:{port}"'
        text = replaced(Path(path).read_text(), more)
        for place, there in mounts.items():
            if place.startswith("/run/"):
                text = re.sub(rf"{re.escape(place)}(?![\w-])", there, text)
        copy.write_text(text)
        return f"{flag}{equals}{copy}"

    def variables(self, service: dict[str, Any]) -> dict[str, str]:
        mounts, given = self.mounts(service), service.get("environment", {})
        found = {name: self.environment.get(name, "") if value is None else value for name, value in given.items()}
        return {name: replaced(value, mounts) for name, value in found.items() if value}

    def start_with_needs(self, name: str, started: set[str]) -> None:
        """The service, after those it depends on."""
        for needed in self.services[name].get("depends_on", {}):
            if needed not in started:
                self.start_with_needs(needed, started)
        started.add(name)
        self.start(name)

    def start(self, name: str) -> None:
        service = self.services[name]
        self.image(service)
        if name == "cloudflared":
            port = os.environ["SHIM_PROXY_PORT"]
            words = ["qanat", "connector", f"--url=http://127.0.0.1:{port}", "--metrics=127.0.0.1:20241"]
            start(name, [replaced(word) for word in words], self.variables(service))
            wait_for(lambda: ready(replaced("http://127.0.0.1:20241/ready")), "the connector")
            return
        if name == "postgres":
            self.fill_postgres(service["environment"], self.mounts(service))
            return
        operator = "OPERATOR" in service["image"]
        words = [*service.get("entrypoint", ["/qanat"] if operator else ["/mcp-proxy"]), *service.get("command", [])]
        if name == "redis":
            start(name, ["redis-server", "--port", os.environ["SHIM_REDIS_PORT"], "--save", ""], {})
            return
        start(name, self.command(name, words), self.variables(service))
        check = self.command(name, service["healthcheck"]["test"][1:])
        wait_for(lambda: subprocess.run(qanat(check), check=False, capture_output=True).returncode == 0, name)

    def fill_postgres(self, given: dict[str, str], mounts: dict[str, str]) -> None:
        """The test's own server runs already: do what the image does at its first start."""
        password = Path(mounts[given["POSTGRES_PASSWORD_FILE"]]).read_text()
        user, database = given["POSTGRES_USER"], given["POSTGRES_DB"]
        role = f"CREATE ROLE {user} LOGIN PASSWORD '{password}'"
        for statement in (role, f"CREATE DATABASE {database} OWNER {user}"):
            subprocess.run([*os.environ["SHIM_PSQL"].split(), "-c", statement], check=True, timeout=60)


def docker(words: list[str]) -> None:
    if words[0] == "run":
        docker_run(words[1:])
        return
    assert words[0] == "compose", words
    file, words = ("compose.yaml", words[1:]) if words[1] != "-f" else (words[2], words[3:])
    compose, verb, rest = Compose(file), words[0], [word for word in words[1:] if not word.startswith("--")]
    if verb == "run":
        service = compose.services[rest[0]]
        compose.image(service)
        arguments = words[words.index(rest[0]) + 1 :] or service["command"]
        run(compose.command(rest[0], [*service["entrypoint"], *arguments]), compose.variables(service))
    elif verb == "up":
        names = [name for name in rest if name != "-d"] or [
            n for n, s in compose.services.items() if "profiles" not in s
        ]
        started: set[str] = set()
        for name in names:
            if name not in started:
                compose.start_with_needs(name, started if len(names) > 1 else {*compose.services})
    elif verb == "down":
        number = signal.SIGKILL if "--timeout" in words else signal.SIGTERM
        for path in STATE.glob("*.pid"):
            stop(path.stem, number)
    elif verb == "exec":
        run(compose.command(words[1], words[2:]), {})
    elif verb == "logs":
        for path in STATE.glob("*.log"):
            sys.stdout.write(path.read_text())
    else:
        sys.exit(f"docker compose {verb}: unknown here")


def docker_run(words: list[str]) -> None:
    mounts, words = {}, [word for word in words if word != "--rm"]
    while words[0] == "-v":
        source, target = words[1].split(":")[:2]
        mounts[target], words = source, words[2:]
    assert "@sha256:" in words[0], words
    config = Path(mounts.pop("/etc/mcp-gateway/config.yaml")).read_text()
    (STATE / "run.yaml").write_text(replaced(config, {"/data/": f"{mounts['/data']}/"}))
    run(["qanat", "proxy", f"-config={STATE / 'run.yaml'}", *words[1:]], {})


def sudo(words: list[str]) -> None:
    """Everything below / is below the test's own root."""
    root, keep = os.environ.get("SHIM_ROOT", ""), {}
    while words[0].startswith("-"):
        if words[0].startswith("--preserve-env="):
            names = words[0].partition("=")[2].split(",")
            keep = {name: os.environ[name] for name in names if name in os.environ}
        words = words[2:] if words[0] == "-u" else words[1:]
    if words[0] == "chown":  # the test's user owns everything already
        assert all(Path(path).exists() for path in words[1:] if ":" not in path and path != "-R")
        return
    if words[0] == "install":
        words = [word for i, word in enumerate(words) if word not in ("-o", "-g") and words[i - 1] not in ("-o", "-g")]
    words = [re.sub(r"(^|=|:)(/(?:var/lib|etc|usr/lib)/)", rf"\1{root}\2", replaced(word)) for word in words]
    if words[0] in ("pipx", "systemd-sysusers"):
        assert words in (["pipx", "install", "--global", "qanat"], ["pipx", "upgrade", "--global", "qanat"], words[:1])
        return
    if words[0] == "systemctl":
        systemctl(words[1:], root)
        return
    run(words, keep) if words[0] == "qanat" else os.execvp(words[0], words)


def systemctl(words: list[str], root: str) -> None:
    verb, units = words[0], [word for word in words[1:] if word.endswith(".service")]
    for unit in units if verb in ("enable", "restart") else []:
        text = (Path(root) / "etc/systemd/system" / unit).read_text()
        line = re.search(r"^ExecStart=/usr/local/bin/(qanat .*)$", text, re.MULTILINE)
        assert line
        if "Type=oneshot" not in text:
            command = replaced(line[1]).replace("/var/lib/", f"{root}/var/lib/").replace("=/etc/", f"={root}/etc/")
            start(unit, command.split(), {name: os.environ[name] for name in ("TUNNEL_CACERT",) if name in os.environ})
            url = replaced(READY.get(unit, "http://127.0.0.1:20241/ready"))
            wait_for(functools.partial(ready, url), unit)
    if verb == "is-active":
        assert all(alive(int((STATE / f"{unit}.pid").read_text())) for unit in units)
        print("active")
    assert verb in ("enable", "restart", "is-active", "daemon-reload"), verb


def main() -> None:
    """Act as the program this was called as."""
    from tests.docs.cluster_shims import helm, kubectl

    name = Path(sys.argv[0]).name
    {"docker": docker, "sudo": sudo, "kubectl": kubectl, "helm": helm}[name](sys.argv[1:])
