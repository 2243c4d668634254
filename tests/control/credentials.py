"""One organization with one of everything, and every kind of credential in every state it can be in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from sqlalchemy import update

from qanat.control.store.tables import APIKeyRow
from tests.support.console import sign_in
from tests.support.control import EDGE_KEY, GATEWAY_KEY, HEADERS, ControlThread, Tenant, plain_client
from tests.support.federation import Federated, federate, ok
from tests.support.pki import throwaway_ca

BETAS = {"anthropic-beta": "mcp-tunnels-2026-06-22, mcp-tunnels-2026-05-19"}
PAST = datetime.now(UTC) - timedelta(hours=1)
ACCOUNTS = "/v1/organizations/service_accounts"


@dataclass
class World:
    """The organization `tenant`; `names` fills the templates of paths with ids of its things."""

    tenant: Tenant
    stranger: Tenant
    names: dict[str, str] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Credential to the headers that present it."""
    csrf: dict[str, str] = field(default_factory=dict)
    """Session to the token its forms need."""

    @property
    def ids(self) -> list[str]:
        """What tells this organization's things from others'."""
        return [value for name, value in self.names.items() if "_" in value and name != "strange_workspace"]

    @contextmanager
    def client(self, credential: str) -> Iterator[httpx2.Client]:
        headers = {**HEADERS, **BETAS, **self.headers[credential]}
        with plain_client(base_url=self.tenant.url, headers=headers) as http:
            yield http


def make_world(control: ControlThread) -> World:
    world = World(control.new_tenant(), control.new_tenant())
    with world.tenant.as_operator() as operator:
        federated = _make_things(world, operator)
        for make in (_api_keys, _tunnels_keys):
            make(world, operator)
        _tokens(world, operator, federated)
    bearers = {
        "garbage": "garbage",
        "bootstrap credential": world.tenant.operator,
        "bootstrap credential, another's": world.stranger.operator,
        "edge's service key": EDGE_KEY,
        "gateway's service key": GATEWAY_KEY,
    }
    world.headers |= {"nothing": {}} | {name: bearer(value) for name, value in bearers.items()}
    _sessions(world)
    return world


def bearer(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


def _make_things(world: World, operator: httpx2.Client) -> Federated:
    made = ok(operator.post("/v1/tunnels"))
    tunnel = made["id"]
    pem = {"ca_certificate_pem": throwaway_ca().certificate_pem.decode()}
    federated = federate(world.tenant)
    world.names |= {
        "tunnel_id": tunnel,
        "domain": made["domain"],
        "certificate_id": ok(operator.post(f"/v1/tunnels/{tunnel}/certificates", json=pem))["id"],
        "account_id": federated.account_id,
        "issuer_id": federated.issuer_id,
        "rule_id": federated.rule_id,
        "workspace_id": world.tenant.new_workspace(),
        "token_id": ok(operator.post("/admin/v1/tunnels_api_keys", json={"name": "named"}))["id"],
        "home": world.tenant.workspace_id,
        "strange_workspace": world.stranger.workspace_id,
        "kind": "accounts",
        "thing_id": federated.account_id,
    }
    member = {"service_account_id": federated.account_id, "workspace_role": "workspace_user"}
    ok(operator.post(f"/v1/organizations/workspaces/{world.names['workspace_id']}/service_accounts", json=member))
    return federated


def _api_keys(world: World, operator: httpx2.Client) -> None:
    made = {}
    for name, kind in {
        "workspace key": "workspace",
        "workspace key, inactive": "workspace",
        "workspace key, expired": "workspace",
        "admin key": "admin",
    }.items():
        made[name] = ok(operator.post("/admin/v1/api_keys", json={"name": name, "kind": kind}))
        world.headers[name] = {"x-api-key": made[name]["key"]}
    world.names["key_id"] = made["workspace key"]["id"]
    ok(operator.post(f"/admin/v1/api_keys/{made['workspace key, inactive']['id']}", json={"status": "inactive"}))
    world.tenant.control.run(_expire(world.tenant.control, made["workspace key, expired"]["id"]))


async def _expire(control: ControlThread, key_id: str) -> None:
    async with control.operations.context.database.write() as session:
        await session.execute(update(APIKeyRow).where(APIKeyRow.id == key_id).values(expires_at=PAST))


def _tunnels_keys(world: World, operator: httpx2.Client) -> None:
    tenant = world.tenant
    archived = tenant.new_workspace("archived")
    values = {
        "": tenant.mint(),
        ", revoked": tenant.mint(revoked_at=PAST),
        ", expired": tenant.mint(expires_at=PAST),
        ", another workspace": tenant.mint(workspace_id=world.names["workspace_id"]),
        ", archived workspace": tenant.mint(workspace_id=archived),
        ", another organization": world.stranger.mint(),
    }
    world.headers |= {f"tunnels key{state}": bearer(value) for state, value in values.items()}
    ok(operator.post(f"/v1/organizations/workspaces/{archived}/archive"))


def _tokens(world: World, operator: httpx2.Client, federated: Federated) -> None:
    """Bought from the token exchange, one after the other: a token keeps the scope it was minted with."""

    def buy(scope: str, **account: str) -> tuple[dict[str, str], str]:
        made = ok(operator.post(ACCOUNTS, json={"name": f"account-{len(world.headers)}", **account}))["id"]
        target = {"type": "service_account", "service_account_id": made}
        federated.update_rule(oauth_scope=scope, target=target)
        return bearer(ok(federated.exchange())["access_token"]), made

    for scope in ("workspace:manage_tunnels", "workspace:developer", "workspace:inference", "org:manage_tunnels"):
        world.headers[f"token, {scope}"], _ = buy(scope)
    world.headers["token, org:admin"], _ = buy("org:admin", organization_role="admin")
    world.headers["token, org:admin, no longer admin"], demoted = buy("org:admin", organization_role="admin")
    ok(operator.post(f"{ACCOUNTS}/{demoted}", json={"organization_role": "developer"}))
    world.headers["token, its account archived"], gone = buy("workspace:manage_tunnels")
    first = {"type": "service_account", "service_account_id": federated.account_id}
    federated.update_rule(oauth_scope="workspace:manage_tunnels", target=first)
    ok(operator.post(f"{ACCOUNTS}/{gone}/archive"))


def _sessions(world: World) -> None:
    people: dict[str, Callable[[], Any]] = {
        "session of a manager": lambda: sign_in(world.tenant),
        "session of a viewer": lambda: sign_in(world.tenant, "viewer"),
        "session of a manager, ended": lambda: sign_in(world.tenant),
        "session of another's manager": lambda: sign_in(world.stranger),
    }
    for name, enter in people.items():
        person = enter()
        value = person.client.cookies["qanat"]
        world.headers[name], world.csrf[name] = {"cookie": f"qanat={value}"}, person.csrf()
        if name == "session of a manager":
            world.headers["session of a manager, as a bearer"] = bearer(value)
        if name == "session of a manager, ended":
            world.tenant.control.run(world.tenant.control.operations.console_sessions.end(value))
