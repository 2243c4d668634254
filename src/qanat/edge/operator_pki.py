"""An operator's own certificates: one CA each for connectors, clients and nodes, and what they sign.

Writes PEM files into one directory; keys are readable by their owner alone, and nothing is ever overwritten.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qanat.errors import ConfigInvalid
from qanat.pki import issue
from qanat.pki.material import Pair, load_pair

LISTENER_LIFETIME = timedelta(days=825)
NODE_NAME = "edge-node.qanat.internal"


def _serial() -> int:
    return issue.serial_number(os.urandom(16))


def make(directory: Path, base_domain: str) -> list[Path]:
    """A fresh set of certificates; returns the files written. Raises `ConfigInvalid` if one exists already."""
    now = datetime.now(UTC)
    connector_ca = issue.issue_ca("qanat connector listener CA", now, _serial())
    client_ca = issue.issue_ca("qanat client CA", now, _serial())
    server_ca = issue.issue_ca("qanat client listener CA", now, _serial())
    node_ca = issue.issue_ca("qanat edge cluster CA", now, _serial())
    names = issue.CONNECTOR_LISTENER_NAMES
    pairs = {
        "connector-listener-ca": connector_ca,
        "connector-listener": issue.issue_listener(connector_ca, names, now, _serial(), lifetime=LISTENER_LIFETIME),
        "client-ca": client_ca,
        "client-listener-ca": server_ca,
        "client-listener": issue.issue_server(server_ca, base_domain, now, _serial(), lifetime=LISTENER_LIFETIME),
        "node-ca": node_ca,
        "node": issue.issue_node(node_ca, (NODE_NAME,), now, _serial(), lifetime=LISTENER_LIFETIME),
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: _paths(directory, name) for name in pairs}
    if taken := [str(path) for paths in files.values() for path in paths if path.exists()]:
        raise ConfigInvalid([f"{path}: exists already" for path in taken])
    return [path for name, pair in pairs.items() for path in write_pair(pair, *files[name])]


def make_client(ca: tuple[Path, Path], name: str, output: Path, lifetime: timedelta) -> list[Path]:
    """A client certificate from the client CA's files; returns `<output>.pem` and `<output>-key.pem`.

    Raises `ConfigInvalid` when a file cannot be read or exists already, `CertificateRefused` for a CA of no use.
    """
    try:
        pair = load_pair(ca[0].read_bytes(), ca[1].read_bytes())
    except OSError as error:
        raise ConfigInvalid([f"{error.filename}: {error.strerror}"]) from error
    client = issue.issue_client(pair, name, datetime.now(UTC), _serial(), lifetime=lifetime)
    paths = _paths(output.parent, output.name)
    if taken := [str(path) for path in paths if path.exists()]:
        raise ConfigInvalid([f"{path}: exists already" for path in taken])
    output.parent.mkdir(parents=True, exist_ok=True)
    return write_pair(client, *paths)


def _paths(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.pem", directory / f"{name}-key.pem"


def write_pair(pair: Pair, certificate: Path, key: Path) -> list[Path]:
    """Write both files; the key never exists with other permissions than its owner's."""
    certificate.write_bytes(pair.certificate_pem)
    descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pair.key_pem)
    return [certificate, key]
