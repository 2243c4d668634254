"""One set of operator certificates for all tests of the edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qanat.edge.server import Edge
from tests.support.edge import DictDirectory, OperatorFiles, running_edge


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> OperatorFiles:
    directory: Path = tmp_path_factory.mktemp("operator")
    return OperatorFiles(directory)


@pytest.fixture
async def directory() -> DictDirectory:
    return DictDirectory()


@pytest.fixture
async def edge(files: OperatorFiles, directory: DictDirectory) -> AsyncIterator[Edge]:
    async with running_edge(files, directory) as edge:
        yield edge


@pytest.fixture
async def edge_with_quic(files: OperatorFiles, directory: DictDirectory) -> AsyncIterator[Edge]:
    async with running_edge(files, directory, connectors={"quic": True}) as edge:
        yield edge
