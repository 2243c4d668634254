"""The deprecated surface: another beta value and scope, the same records."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.control import OLD_BETA, ControlThread, Tenant
from tests.support.federation import ok
from tests.support.requirements import requirement

pytestmark = pytest.mark.slow

ALIAS = "/v1/organizations/tunnels"


@requirement("tunnels-api:35", "tunnels-api:36")
def test_the_alias_shows_workspaces_and_shares_its_records(tenant: Tenant, ca_pem: str) -> None:
    second = tenant.new_workspace()
    with tenant.http() as http, tenant.http(tenant.mint(workspace_id=second)) as elsewhere:
        mine = ok(http.post("/v1/tunnels"))["id"]
        other = ok(elsewhere.post("/v1/tunnels"))["id"]
        assert http.get(ALIAS, headers={"anthropic-beta": OLD_BETA}).status_code == 403
        assert http.get(ALIAS).status_code == 400
        with tenant.http(tenant.mint({"org:manage_tunnels"}), **{"anthropic-beta": OLD_BETA}) as old:
            listed = old.get(ALIAS)
            assert [(item["id"], item["workspace_id"]) for item in ok(listed)["data"]] == [
                (other, second),
                (mine, None),
            ]
            assert listed.headers["deprecation"] == "true"
            assert listed.headers["link"] == '</v1/tunnels>; rel="successor-version"'
            assert "anthropic-workspace-id" not in listed.headers
            filtered = ok(old.get(ALIAS, params={"workspace_id": second}))
            assert [item["id"] for item in filtered["data"]] == [other]
            assert old.get(ALIAS, params={"workspace_id": "x"}).status_code == 400
            assert old.post(ALIAS).status_code == 405
            made = ok(old.post(f"{ALIAS}/{mine}/certificates", json={"ca_certificate_pem": ca_pem}))
            page = ok(old.get(f"{ALIAS}/{mine}/certificates", params={"page": "whatever"}))
            assert (page["data"], page["next_page"]) == ([made], None)
            assert ok(old.get(f"{ALIAS}/{mine}/certificates/{made['id']}")) == made
            token = ok(old.post(f"{ALIAS}/{mine}/reveal_token"))
            assert ok(http.post(f"/v1/tunnels/{mine}/reveal_token")) == token
            assert ok(old.post(f"{ALIAS}/{mine}/rotate_token", json={"reason": "x"}))["id"] != token["id"]
            ok(old.post(f"{ALIAS}/{mine}/certificates/{made['id']}/archive"))
            archived = ok(old.post(f"{ALIAS}/{mine}/archive"))
            assert (archived["id"], archived["workspace_id"]) == (mine, None)
            assert old.get("/v1/tunnels").status_code == 400
        assert ok(http.get(f"/v1/tunnels/{mine}"))["archived_at"] == archived["archived_at"]
        assert "workspace_id" not in ok(http.get(f"/v1/tunnels/{mine}"))


def test_the_alias_can_be_switched_off(start_control: Callable[..., ControlThread]) -> None:
    tenant = start_control({"deprecated_alias": False}).new_tenant()
    with tenant.http(tenant.mint({"org:manage_tunnels"}), **{"anthropic-beta": OLD_BETA}) as old:
        assert old.get(ALIAS).status_code == 404
