"""Every path times every kind of credential: what `authorization.py` says is what they get."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from qanat.control.metrics import Metrics
from qanat.control.rest.app import make_app
from qanat.control.rest.internal import ServiceKeys
from tests.control.authorization import CONTROL, DOORS, PATHS
from tests.control.credentials import World, make_world
from tests.support.access_tables import Path, read_cells, read_paths, routes_of
from tests.support.control import ControlThread

ALL_PATHS, CELLS = read_paths(PATHS), read_cells(CONTROL)
WRONG = {"surely_no_field": 1}
"""A body that is refused once the credential has passed, so that asking changes nothing."""
ROLE = {"workspace_role": "workspace_user"}
BODIES: dict[str, dict[str, str]] = {
    "/v1/organizations/service_accounts/{account_id}/workspaces": {"workspace_id": "{strange_workspace}", **ROLE},
    "/v1/organizations/workspaces/{workspace_id}/service_accounts": {"service_account_id": "{account_id}", **ROLE},
    "/v1/organizations/workspaces/{workspace_id}/service_accounts/{account_id}": ROLE,
    "/v1/organizations/federation_rules/{rule_id}/workspaces": {"workspace_id": "{workspace_id}"},
    "/admin/v1/api_keys/{key_id}": {"status": "archived"},
    "/console/keys/{key_id}/status": {"status": "archived"},
    "/console/workspace": {"workspace": "{home}"},
}
"""What would change something; everywhere else an empty object or form does."""
STREAMS = ("text/event-stream", "application/x-ndjson")
QUERIES = {"/internal/v1/tunnels": "?domain={domain}"}


def test_the_tables_are_whole(control: ControlThread) -> None:
    app: Any = make_app(control.operations, ServiceKeys([]), asyncio.Event(), Metrics())
    served = set(routes_of(app._app.routes))
    assert {f"{path.method} {path.template}" for path in ALL_PATHS} == served, "say in authorization.py who may get in"
    assert {path.door for path in ALL_PATHS} == set(DOORS)
    assert all(set(cells) == set(DOORS) for cells in CELLS.values())


@pytest.fixture(scope="session")
def world(control: ControlThread) -> World:
    return make_world(control)


@pytest.mark.slow
@pytest.mark.parametrize("credential", CELLS)
def test_a_credential_gets_what_the_table_says(world: World, credential: str) -> None:
    wrong = []
    with world.client(credential) as http, world.client("nothing") as nobody:
        for path in ALL_PATHS:
            expected = CELLS[credential][path.door]
            answer = ask(world, http, credential, path, expected)
            fits = answer.fits(expected, path, world)
            if expected == "same":
                fits = answer.status == ask(world, nobody, "nothing", path, expected).status
            if not fits:
                wrong.append(f"{path.method} {path.template}: {answer} instead of {expected}")
    assert not wrong, "\n".join(wrong)


@dataclass(frozen=True)
class Answer:
    """What the tables speak of."""

    status: int
    location: str
    text: str = field(repr=False)

    def fits(self, expected: str, path: Path, world: World) -> bool:
        """Whether this is what a cell of the table means."""
        signing_in = self.status == 303 and self.location.startswith("/console/sign-in")
        if expected == "sign-in":
            return signing_in
        if expected in ("401", "403"):
            return self.status == int(expected)
        if expected in ("404", "other") and path.named:
            return self.status == (404 if expected == "404" else 403)
        if expected in ("404", "other"):
            return self.status not in (401, 403) and not any(name in self.text for name in world.ids)
        return self.status not in (401, 403) and not signing_in and (path.method != "GET" or self.status < 400)


def ask(world: World, http: httpx2.Client, credential: str, path: Path, expected: str) -> Answer:
    """Whoever is let in asks so that nothing changes; whoever is not asks for what would change something."""
    harmless = expected == "in" and path.door != "workspace"
    names = world.names
    if harmless and path.method == "DELETE":
        names = {name: f"{value}x" for name, value in names.items()}
    url = (path.template + QUERIES.get(path.template, "")).format(**names)
    body = {name: value.format(**names) for name, value in BODIES.get(path.template, {}).items()}
    content: dict[str, Any] = {}
    if path.method == "POST" and path.template.startswith("/console"):
        content["data"] = {"csrf": world.csrf.get(credential, ""), **({} if harmless else body)}
    elif path.method == "POST":
        content["json"] = WRONG if harmless or not path.named else body
    with http.stream(path.method, url, **content) as answer:
        endless = answer.headers.get("content-type", "").startswith(STREAMS)
        text = "" if endless else answer.read().decode()
    return Answer(answer.status_code, answer.headers.get("location", ""), text)
