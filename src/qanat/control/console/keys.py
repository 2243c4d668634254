"""API keys for the Messages API, and short-lived Tunnels API keys for setup. Values are shown once, at creation."""

from __future__ import annotations

from datetime import timedelta

from pydantic import SecretStr
from starlette.responses import Response

from qanat.control.console.pages import Pages, Visit, go, show
from qanat.control.errors import Invalid, Refused
from qanat.control.operations.pages import PageRequest

NEWEST = PageRequest(limit=100)
LIFETIMES = {"15m": timedelta(minutes=15), "1h": timedelta(hours=1), "24h": timedelta(hours=24)}


async def list_keys(visit: Visit, error: Refused | None = None, created: SecretStr | None = None) -> Response:
    """Both kinds; `created` is the value of a key that was just made."""
    operations = visit.operations
    api_keys = await operations.keys.list_api_keys(visit.actor, NEWEST)
    tunnels_keys = await operations.keys.list_tokens(visit.actor, "tunnels_api_key", NEWEST)
    return show(
        visit, "keys.html", error.status if error else 200, api_keys=api_keys.data, tunnels_keys=tunnels_keys.data,
        lifetimes=list(LIFETIMES), error=error, created=created.get_secret_value() if created else "",
    )  # fmt: skip


async def create(visit: Visit) -> Response:
    """A key of either kind."""
    form, keys = visit.request.state.form, visit.operations.keys
    try:
        name = form.get("name", "")
        if form.get("kind") == "tunnels":
            lifetime = LIFETIMES.get(form.get("lifetime", ""))
            if lifetime is None:
                raise Invalid("lifetime", f"must be one of {', '.join(LIFETIMES)}")
            token = await keys.create_tunnels_key(visit.actor, name, visit.session.workspace_id, lifetime)
            return await list_keys(visit, created=token.token)
        key = await keys.create_api_key(visit.actor, name, visit.session.workspace_id, None)
        return await list_keys(visit, created=key.key)
    except Refused as error:
        return await list_keys(visit, error)


async def switch(visit: Visit) -> Response:
    """Turn an API key off, on, or archive it for ever."""
    status = visit.request.state.form.get("status", "")
    if status not in ("active", "inactive", "archived"):
        raise Invalid("status", "must be active, inactive or archived")
    await visit.operations.keys.set_api_key_status(visit.actor, visit.request.path_params["key_id"], status)
    return go("/keys", "saved")


async def revoke(visit: Visit) -> Response:
    """Revoke a Tunnels API key."""
    await visit.operations.keys.revoke_token(visit.actor, visit.request.path_params["token_id"])
    return go("/keys", "removed")


PAGES: Pages = {
    "/keys": {"GET": list_keys, "POST": create},
    "/keys/{key_id}/status": {"POST": switch},
    "/keys/tokens/{token_id}/revoke": {"POST": revoke},
}
