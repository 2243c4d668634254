"""What every chain stands on: certificates, a tunnel token, free ports, and processes that are always ended."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from qanat.edge import operator_pki
from qanat.ids import TunnelUUID
from qanat.pki import issue
from qanat.wire.token import TunnelToken

DOMAIN = "abcdefgh.bench.example"
HOST = f"echo.{DOMAIN}"
START_TIMEOUT = 30.0


class ChainFailed(Exception):
    """A chain did not come up; the text says which process and what it printed last."""


@dataclass
class Ground:
    """A directory with all files, and the token of the one tunnel that is used."""

    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="qanat-bench-")))
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    uuid: UUID = field(default_factory=uuid4)
    account_tag: str = "0" * 32

    def __post_init__(self) -> None:
        directory = self.directory
        operator_pki.make(directory / "pki", "bench.example")
        operator_pki.make_client(
            (self.pki("client-ca.pem"), self.pki("client-ca-key.pem")),
            "gateway.bench.example",
            directory / "pki" / "client",
            timedelta(days=2),
        )
        now = datetime.now(UTC)
        ca = issue.issue_ca("bench", now, issue.serial_number(os.urandom(16)))
        server = issue.issue_server(ca, DOMAIN, now, issue.serial_number(os.urandom(16)))
        (directory / "ca.crt").write_bytes(ca.certificate_pem)
        operator_pki.write_pair(server, directory / "tls.crt", directory / "tls.key")
        token = TunnelToken(self.account_tag, TunnelUUID(self.uuid), self.secret).encode()
        (directory / "tunnel-token").write_text(token)
        combined = self.directory / "tls-both.pem"
        combined.write_bytes(server.certificate_pem + server.key_pem)
        outer = self.pki("client-listener.pem").read_bytes() + self.pki("client-listener-key.pem").read_bytes()
        (directory / "outer-both.pem").write_bytes(outer)

    def pki(self, name: str) -> Path:
        """A file of the operator's."""
        return self.directory / "pki" / name

    def file(self, name: str, text: str = "") -> Path:
        """A file of the run's own, written if `text` is given."""
        path = self.directory / name
        if text:
            path.write_text(text)
        return path

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """The processes of one chain."""

    def __init__(self, log_directory: Path) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._logs = log_directory

    @property
    def pids(self) -> tuple[int, ...]:
        """Of those that still run."""
        return tuple(process.pid for _, process in self._running if process.poll() is None)

    def start(
        self, name: str, *command: str, job: object = None, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """Start one; `job` is given on standard input as a line of JSON. Returns its pid."""
        log = (self._logs / f"{name}.log").open("wb")
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if job is not None else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        log.close()
        if job is not None:
            assert process.stdin is not None
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.close()
        self._running.append((name, process))
        return process.pid

    def python(self, name: str, *arguments: str, job: object = None, cwd: Path | None = None) -> int:
        """Start a module or script with this interpreter."""
        return self.start(name, sys.executable, *arguments, job=job, cwd=cwd)

    def wait_for_log(self, name: str, text: str, count: int = 1) -> None:
        """Until a process has printed `text` so often. Raises `ChainFailed`."""
        log = self._logs / f"{name}.log"
        self._wait(lambda: log.read_text(errors="replace").count(text) >= count, name, f"printed {text!r}")

    def wait_for_port(self, name: str, port: int) -> None:
        """Until something listens there. Raises `ChainFailed`."""
        self._wait(lambda: _listens(port), name, f"listened on {port}")

    def _wait(self, condition: object, name: str, what: str) -> None:
        assert callable(condition)
        deadline = time.monotonic() + START_TIMEOUT
        while not condition():
            dead = [other for other, process in self._running if process.poll() not in (None, 0)]
            if time.monotonic() > deadline or dead:
                tail = (self._logs / f"{(dead or [name])[0]}.log").read_text(errors="replace")[-1500:]
                raise ChainFailed(f"{name} never {what}; {dead or ''}\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End all of them, last started first."""
        for _, process in reversed(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for _, process in self._running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
