"""Every path of the gateway times every kind of credential, judged by a real control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from qanat.control.operations.authentication import PLAYGROUND
from qanat.gateway.access import Gatekeeper
from qanat.gateway.answer import Answering
from qanat.gateway.app import GatewayApp
from qanat.gateway.metrics import Metrics
from qanat.gateway.models import Models
from qanat.gateway.oauth.vaults import Vaults
from qanat.gateway.reach import Reach
from qanat.gateway.server import Gateway, serve
from qanat.gateway.tool_cache import ToolCache
from tests.control.authorization import GATEWAY, GATEWAY_DOORS, GATEWAY_PATHS
from tests.control.credentials import World, bearer, make_world
from tests.support.access_tables import read_cells, read_paths, routes_of
from tests.support.control import GATEWAY_KEY, ControlThread, control_config
from tests.support.gateway import DictControl, gateway_config

PATHS, CELLS = read_paths(GATEWAY_PATHS), read_cells(GATEWAY)
NAMES = {"/v1/models/{model:path}": "/v1/models/qanat-demo", "/oauth/start/{state}": "/oauth/start/x"}


def oauth(folder: Path) -> dict[str, Any]:
    (folder / "master").write_text("ab" * 32)
    return {"public_url": "http://127.0.0.1:1", "database": folder / "vaults.db", "key_file": folder / "master"}


async def test_the_tables_are_whole(tmp_path: Path) -> None:
    config, control = gateway_config(oauth=oauth(tmp_path)), DictControl()
    assert config.oauth is not None
    async with httpx2.AsyncClient() as http:
        reach = Reach(config, control, None)
        answering = Answering(config, Models(config, http), reach, ToolCache(0), Metrics())
        answering.vaults = Vaults(reach, config.oauth)
        app: Any = GatewayApp(answering, Gatekeeper(control))
        served = set(routes_of(app._app.routes))
        await answering.vaults.aclose()
        await reach.aclose()
    assert {f"{path.method} {path.template}" for path in PATHS} == served, "say in authorization.py who may get in"
    assert {path.door for path in PATHS} == set(GATEWAY_DOORS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        control = stack.enter_context(ControlThread(control_config(tmp_path_factory.mktemp("control"))))
        made = make_world(control)
        made.headers["playground ticket"] = bearer(made.tenant.mint({PLAYGROUND}, kind="playground"))
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    control = {"url": world.tenant.url, "service_key": GATEWAY_KEY}
    async with serve(gateway_config(control=control, oauth=oauth(tmp_path_factory.mktemp("oauth")))) as running:
        yield running


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("credential", CELLS)
async def test_a_credential_gets_what_the_table_says(world: World, gateway: Gateway, credential: str) -> None:
    wrong = []
    async with httpx2.AsyncClient(base_url=gateway.url, headers=world.headers[credential], timeout=30) as http:
        for path in PATHS:
            url = NAMES.get(path.template) or path.template.format(vault="someone")
            status = (await http.request(path.method, url, json={"surely_no_field": 1})).status_code
            expected = CELLS[credential][path.door]
            if (status not in (401, 403)) != (expected == "in") or (expected != "in" and status != int(expected)):
                wrong.append(f"{path.method} {path.template}: {status} instead of {expected}")
    assert not wrong, "\n".join(wrong)
