"""Control planes for these tests: every test that takes `control` runs on SQLite, and, as a slow one, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.control import ControlThread, Tenant, control_config
from tests.support.pki import throwaway_ca
from tests.support.postgres import Postgres, find_programs, running_postgres

BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def new_database(backend: str, request: pytest.FixtureRequest) -> Callable[[], dict[str, Any]]:
    """Configuration of a fresh database on the backend."""

    def make() -> dict[str, Any]:
        if backend == "sqlite":
            return {}
        server: Postgres = request.getfixturevalue("postgres")
        return {"database_url": server.new_database()}

    return make


@pytest.fixture(scope="session")
def control(
    new_database: Callable[[], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlThread]:
    """One control plane for all tests of a backend: they live in organizations of their own."""
    with ControlThread(control_config(tmp_path_factory.mktemp("control"), **new_database())) as thread:
        yield thread


@pytest.fixture
def ca_pem() -> str:
    return throwaway_ca().certificate_pem.decode()


@pytest.fixture
def tenant(control: ControlThread) -> Tenant:
    return control.new_tenant()


@pytest.fixture
def start_control(new_database: Callable[[], dict[str, Any]], tmp_path: Path) -> Iterator[Callable[..., ControlThread]]:
    """Starts control planes of a test's own: `start_control(config={…}, clock=…)`."""
    with ExitStack() as stack:

        def start(config: dict[str, Any] | None = None, **sources: Any) -> ControlThread:
            settings = {"data_dir": tmp_path / "control", **new_database(), **(config or {})}
            return stack.enter_context(ControlThread(control_config(settings.pop("data_dir"), **settings), **sources))

        yield start
