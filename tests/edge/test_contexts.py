"""Certificates that change under a running edge."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from qanat.edge.config import CertificateFiles
from qanat.edge.contexts import FreshContext, for_clients, for_connectors
from qanat.errors import ConfigInvalid
from tests.support.edge import BASE, CLIENT_NAME, DictDirectory, OperatorFiles, edge_config, running_edge
from tests.support.edge_clients import ask, revoked_client
from tests.support.requirements import requirement


def later(path: Path) -> None:
    """Make a file look changed, whatever the clock's grain."""
    stamp = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(stamp, stamp))


def test_a_changed_file_makes_a_new_context_and_a_broken_one_keeps_the_old(
    files: OperatorFiles, tmp_path: Path
) -> None:
    for name in ("connector-listener", "connector-listener-key"):
        shutil.copy(files.path(name), tmp_path / f"{name}.pem")
    certificate, key = tmp_path / "connector-listener.pem", tmp_path / "connector-listener-key.pem"
    fresh: FreshContext = for_connectors(CertificateFiles(certificate_file=certificate, key_file=key))
    first = fresh.current()
    assert fresh.current() is first
    later(certificate)
    second = fresh.current()
    assert second is not first
    certificate.write_text("broken")
    later(certificate)
    assert fresh.current() is second


def test_a_missing_file_is_named_at_start(files: OperatorFiles) -> None:
    config = edge_config(files, clients={"client_ca_file": "/nowhere/ca.pem"})
    with pytest.raises(ConfigInvalid, match=r"/nowhere/ca\.pem"):
        for_clients(config.clients)


@requirement("edge:wrong-clients")
async def test_a_client_revoked_while_the_edge_runs_is_refused_without_a_restart(
    files: OperatorFiles, directory: DictDirectory, tmp_path: Path
) -> None:
    crl = tmp_path / "crl.pem"
    shutil.copy(revoked_client(files)[1], crl)
    name, newer = revoked_client(files)  # another client, whom the first list does not know
    host = f"tickets.unknown1.{BASE}"
    async with running_edge(files, directory, clients={"client_crl_file": str(crl)}) as edge:
        assert await ask(files, edge.client_address, host, name) == "404 unknown_host"
        shutil.copy(newer, crl)
        later(crl)
        assert await ask(files, edge.client_address, host, name) == "refused"
        assert await ask(files, edge.client_address, host, CLIENT_NAME) == "404 unknown_host"
