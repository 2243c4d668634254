"""Who is admitted from memory, and for how long: with a control plane that answers, and one that does not."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from qanat.api.internal import Principal
from qanat.errors import QanatError
from qanat.gateway.access import LIFETIME, STATIC, Caller, Gatekeeper
from qanat.gateway.errors import APIError
from qanat.ids import WorkspaceID
from tests.support.control import SteppedClock
from tests.support.gateway import KEY, DictControl, principal


class Unsteady(DictControl):
    """Answers, or is down."""

    down = False

    async def authenticate(self, credential: str, workspace_id: WorkspaceID | None = None) -> Principal | None:
        if self.down:
            raise QanatError
        return await super().authenticate(credential, workspace_id)


def admit(gatekeeper: Gatekeeper, now: float) -> Caller:
    return asyncio.run(gatekeeper.admit({"x-api-key": KEY}, now))


def refused(gatekeeper: Gatekeeper, now: float) -> int:
    with pytest.raises(APIError) as caught:
        admit(gatekeeper, now)
    return caught.value.http_status


def test_a_revoked_credential_is_taken_for_a_few_seconds_and_no_longer() -> None:
    control = Unsteady()
    gatekeeper = Gatekeeper(control)
    admit(gatekeeper, 0)
    control.principals.clear()
    admit(gatekeeper, LIFETIME - 1)
    assert refused(gatekeeper, LIFETIME + 1) == 401


def test_without_the_control_plane_whoever_was_known_stays_known_for_a_while() -> None:
    control = Unsteady()
    gatekeeper = Gatekeeper(control)
    admit(gatekeeper, 0)
    control.down = True
    admit(gatekeeper, LIFETIME + STATIC - 1)
    assert refused(gatekeeper, LIFETIME + STATIC + 1) == 500


@pytest.mark.parametrize("workspace", ["abc", "wrkspc_", "wrkspc_a-b", "tnl_01abc", "wrkspc_a\0"])
def test_a_workspace_that_is_none_is_the_callers_mistake_and_no_outage(workspace: str) -> None:
    control = Unsteady()
    control.down = True
    with pytest.raises(APIError, match="anthropic-workspace-id") as caught:
        asyncio.run(Gatekeeper(control).admit({"x-api-key": KEY, "anthropic-workspace-id": workspace}, 0))
    assert caught.value.http_status == 400


def test_a_token_that_is_over_is_not_taken_from_memory_with_or_without_the_control_plane() -> None:
    clock, control = SteppedClock(), Unsteady()
    control.principals[KEY] = principal().model_copy(update={"expires_at": clock.now() + timedelta(seconds=60)})
    gatekeeper = Gatekeeper(control, clock)
    admit(gatekeeper, 0)
    control.down = True
    admit(gatekeeper, 10)
    clock.advance(seconds=61)
    assert refused(gatekeeper, 11) == 500
    control.down = False
    control.principals.clear()
    assert refused(gatekeeper, 12) == 401


def test_of_two_credentials_the_bearer_counts_as_it_does_at_the_control_plane() -> None:
    gatekeeper = Gatekeeper(Unsteady())
    asyncio.run(gatekeeper.admit({"authorization": f"Bearer {KEY}", "x-api-key": "unknown"}, 0))
    with pytest.raises(APIError, match="invalid bearer token"):
        asyncio.run(gatekeeper.admit({"authorization": "Bearer unknown", "x-api-key": KEY}, 0))
