"""Output to a Kubernetes Secret, through the cluster's API with the pod's own service account.

One update carries all changes, so it is atomic. Updates name the version they were made from: when somebody else
wrote in between we look again, and go on only if none of the keys we are about to change has changed.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from qanat.setup.errors import Misused, OutputFailed, SetupRefused
from qanat.setup.state import NAMES, Changes
from qanat.wire.addresses import join_host_port

TIMEOUT = 15.0
CONFLICT_ATTEMPTS = 5
LABELS = {"app.kubernetes.io/managed-by": "mcp-tunnel-setup"}


class Secret:
    """The files of a stack as the keys of one Secret."""

    def __init__(self, name: str, namespace: str, http: httpx2.AsyncClient, token_file: Path) -> None:
        self._name, self._namespace = name, namespace
        self._http, self._token_file = http, token_file
        self._files: dict[str, bytes] = {}
        self._version: str | None = None

    @property
    def restart_hint(self) -> str:
        return (
            f"restart the pods that use Secret {self._name}: kubectl -n {self._namespace} rollout restart "
            "deployment; connections that are open stay open until then"
        )

    async def read(self) -> dict[str, bytes]:
        response = await self._send("GET", self._path)
        if response.status_code == 404:
            self._files, self._version = {}, None
            return {}
        self._take(self._checked(response, "get"))
        return dict(self._files)

    async def write(self, changes: Changes) -> None:
        for _ in range(CONFLICT_ATTEMPTS):
            before = {name: self._files.get(name) for name in changes}
            response = await self._submit(changes)
            if response.status_code != 409:  # 409: changed or created since we read
                self._take(self._checked(response, "update" if self._version else "create"))
                return
            await self.read()
            if before != {name: self._files.get(name) for name in changes}:
                break
        raise OutputFailed(f"Secret {self._where} was changed by somebody else meanwhile; run again")

    async def _submit(self, changes: Changes) -> httpx2.Response:
        data = {name: None if value is None else base64.b64encode(value).decode() for name, value in changes.items()}
        if self._version is None:
            present = {name: value for name, value in data.items() if value is not None}
            metadata = {"name": self._name, "namespace": self._namespace, "labels": LABELS}
            body = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": present}
            return await self._send("POST", self._path.rpartition("/")[0], body)
        patch = {"metadata": {"resourceVersion": self._version, "labels": LABELS}, "data": data}
        return await self._send("PATCH", self._path, patch)

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets/{self._name}"

    @property
    def _where(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"authorization": f"Bearer {_read(self._token_file)}", "content-type": kind}
        request = self._http.build_request(method, path, json=body, headers=headers)
        try:
            return await self._http.send(request)
        except httpx2.TransportError as error:
            raise OutputFailed(f"cannot reach the cluster's API: {str(error) or type(error).__name__}") from error

    def _checked(self, response: httpx2.Response, verb: str) -> dict[str, Any]:
        if response.status_code in (401, 403):
            cause = "the pod's service account may not" if response.status_code == 403 else "not signed in, cannot"
            raise SetupRefused(f"{cause} {verb} Secret {self._where}: {_message(response)}")
        if response.status_code not in (200, 201):
            raise OutputFailed(f"{verb} Secret {self._where}: {response.status_code} {_message(response)}")
        body = response.json()
        if not isinstance(body, dict):
            raise OutputFailed(f"{verb} Secret {self._where}: the answer is no object")
        return body

    def _take(self, body: Mapping[str, Any]) -> None:
        data = body.get("data") or {}
        try:
            self._version = str(body["metadata"]["resourceVersion"])
            self._files = {name: base64.b64decode(data[name], validate=True) for name in NAMES if name in data}
        except (KeyError, TypeError, binascii.Error) as error:
            raise OutputFailed(f"Secret {self._where} cannot be understood") from error


def _message(response: httpx2.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return "no explanation"


@asynccontextmanager
async def open_secret(name: str, environ: Mapping[str, str], service_account: Path) -> AsyncIterator[Secret]:
    """The Secret `name` in the pod's namespace. Raises `Misused` outside a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT") or "443"
    if not host:
        raise Misused("--output=k8s-secret: works inside a pod only (KUBERNETES_SERVICE_HOST is not set)")
    namespace = _read(service_account / "namespace")
    try:
        trust = ssl.create_default_context(cafile=service_account / "ca.crt")
    except (OSError, ssl.SSLError) as error:
        raise OutputFailed(f"open {service_account / 'ca.crt'}: {error}") from error
    async with httpx2.AsyncClient(
        base_url=f"https://{join_host_port(host, port)}", verify=trust, timeout=TIMEOUT, trust_env=False
    ) as http:
        yield Secret(name, namespace, http, service_account / "token")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()  # short-lived tokens are replaced on disk: read at every use
    except OSError as error:
        raise OutputFailed(f"open {path}: {(error.strerror or str(error)).lower()}") from error
