"""The Secrets part of a cluster's API, small but real: TLS, tokens, rights, resource versions, merge patches."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qanat.pki.issue import issue_listener
from tests.support.pki import now, serial, throwaway_ca
from tests.support.tunnels_api import JSONHandler, Request, serving

NAMESPACE = "tunnels"
TOKEN = "a-projected-token"


class Status(Exception):
    """An answer of kind Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


@dataclass
class Cluster:
    """The cluster's state, and what a pod in it sees."""

    environment: dict[str, str]
    service_account: Path
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    """Verbs the service account may not use: get, create, patch."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    before_write: Callable[[], None] = lambda: None
    """Called before each write is looked at: what another writer does meanwhile."""
    _version: int = 100

    def files(self, name: str = "mcp-tunnel") -> dict[str, bytes]:
        data = self.secrets[name]["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def put(self, name: str, files: dict[str, bytes]) -> None:
        """Write as somebody else."""
        current = self.secrets.get(name, {"data": {}})["data"]
        data = current | {key: base64.b64encode(value).decode() for key, value in files.items()}
        self._store(name, {"metadata": {"name": name}, "data": data})

    def _store(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.secrets[name] = body
        return body

    def handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        verb = {"GET": "get", "POST": "create", "PATCH": "patch"}[request.method]
        self.requests.append((verb, request.path))
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise Status(401, "Unauthorized", "Unauthorized")
        if verb in self.forbidden:
            text = f'secrets "mcp-tunnel" is forbidden: User "x" cannot {verb} resource "secrets"'
            raise Status(403, "Forbidden", text)
        collection = f"/api/v1/namespaces/{NAMESPACE}/secrets"
        if verb == "create" and request.path == collection:
            return 201, self._create(request.body)
        name = request.path.removeprefix(collection + "/")
        if verb == "get" and name in self.secrets:
            return 200, self.secrets[name]
        if verb == "patch" and name in self.secrets:
            assert request.headers["content-type"] == "application/merge-patch+json"
            return 200, self._patch(name, request.body)
        raise Status(404, "NotFound", f'secrets "{name}" not found')

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        self.before_write()
        name = body["metadata"]["name"]
        if name in self.secrets:
            raise Status(409, "AlreadyExists", f'secrets "{name}" already exists')
        return self._store(name, body)

    def _patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.before_write()
        secret = self.secrets[name]
        if patch["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"]:
            raise Status(409, "Conflict", "the object has been modified; please apply your changes")
        merged = secret["data"] | patch["data"]
        data = {key: value for key, value in merged.items() if value is not None}
        return self._store(name, secret | {"data": data})


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running API, and the service account's files in `folder`."""
    ca = throwaway_ca("cluster")
    pair = issue_listener(ca, ["127.0.0.1"], now(), serial())
    (folder / "ca.crt").write_bytes(ca.certificate_pem)
    (folder / "server.pem").write_bytes(pair.certificate_pem + pair.key_pem)
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "namespace").write_text(NAMESPACE)
    state, lock = Cluster({}, folder), threading.Lock()

    class Handler(JSONHandler):
        def answer(self, request: Request) -> tuple[int, dict[str, Any]] | None:
            with lock:
                try:
                    return state.handle(request)
                except Status as status:
                    return status.code, status.body

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with serving(Handler, context) as server:
        port = str(server.server_port)
        state.environment.update(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=port)
        yield state
