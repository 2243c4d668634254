"""ID tokens judged without I/O: which key may have signed them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from qanat.control.assertions import Denied
from qanat.control.config import SingleSignOn
from qanat.control.openid import NoRole, judge_id_token, read_person, role_of
from tests.support.federation import EC_KEY, RSA_KEY, jwk, sign

SSO = SingleSignOn(issuer="https://id.example", client_id="console", manage=("operators",))


def nameless(key: Any) -> dict[str, Any]:
    return {name: value for name, value in jwk(key, "").items() if name != "kid"}


def judge(*keys: dict[str, Any]) -> str:
    """Who a token without a key id stands for."""
    now = int(time.time())
    claims = {"iss": SSO.issuer, "aud": SSO.client_id, "sub": "ada", "nonce": "n", "iat": now, "exp": now + 60}
    return str(judge_id_token(sign(claims, kid=None), keys, SSO, "n", datetime.now(UTC))["sub"])


@pytest.mark.parametrize("key", [nameless(RSA_KEY), jwk(RSA_KEY, "named")])
def test_a_providers_only_key_need_not_be_named(key: dict[str, Any]) -> None:
    """OpenID Connect Core 1.0, 10.1: a kid is needed where there are several."""
    assert judge(key) == "ada"


@pytest.mark.parametrize("keys", [[nameless(RSA_KEY), nameless(EC_KEY)], [nameless(EC_KEY)], []])
def test_no_key_is_guessed(keys: list[dict[str, Any]]) -> None:
    with pytest.raises(Denied, match="jwt_kid"):
        judge(*keys)


@pytest.mark.parametrize("verified", [True, False])
def test_an_address_gives_a_role_only_when_it_counts(verified: bool) -> None:
    sso = SSO.model_copy(update={"roles_claim": "email", "manage": ("ada@example.com",)})
    person = read_person({"sub": "x", "email": "ada@example.com", "email_verified": verified}, {}, sso)
    if verified:
        assert role_of(person, sso) == "manager"
        return
    with pytest.raises(NoRole):
        role_of(person, sso)
