"""Fixtures of the proxy's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.proxy import TestPKI, make_pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPKI:
    """One CA for the whole run; a test that changes certificates makes its own."""
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def own_pki(tmp_path: Path) -> TestPKI:
    """A CA and certificate files that a test may change."""
    return make_pki(tmp_path)
