"""The key set: fetched when needed, never in a storm, kept while the issuer is down."""

from __future__ import annotations

import asyncio
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from qanat.proxy.policy.keys import KeySet, KeysUnavailable, read_key_set
from qanat.proxy.policy.token import TokenRefused


def public_jwk(kid: str) -> dict[str, object]:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(public)), "kid": kid}


class Issuer:
    """Serves what it is told, and counts."""

    def __init__(self, *kids: str) -> None:
        self.kids = list(kids)
        self.fetches = 0
        self.now = 1000.0
        self.down = False

    async def fetch(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.down:
            raise OSError("down")
        return json.dumps({"keys": [public_jwk(kid) for kid in self.kids]}).encode()

    def key_set(self) -> KeySet:
        return KeySet(self.fetch, lambda: self.now)


async def test_keys_are_fetched_once_for_many_callers() -> None:
    issuer = Issuer("a")
    keys = issuer.key_set()
    await asyncio.gather(*[keys.key("a") for _ in range(20)])
    assert issuer.fetches == 1


async def test_a_rotated_key_is_found_without_a_restart() -> None:
    issuer = Issuer("a")
    keys = issuer.key_set()
    await keys.key("a")
    issuer.kids = ["b"]
    issuer.now += 31
    assert (await keys.key("b")).key_id == "b"
    with pytest.raises(TokenRefused):
        await keys.key("a")


async def test_unknown_key_ids_cause_one_fetch_per_half_minute() -> None:
    issuer = Issuer("a")
    keys = issuer.key_set()
    for number in range(50):
        issuer.now += 1
        with pytest.raises(TokenRefused):
            await keys.key(f"forged-{number}")
    assert issuer.fetches == 2


async def test_a_dead_issuer_closes_the_route_at_start_but_not_later() -> None:
    issuer = Issuer("a")
    issuer.down = True
    keys = issuer.key_set()
    with pytest.raises(KeysUnavailable):
        await keys.key("a")
    issuer.down = False
    issuer.now += 31
    await keys.key("a")
    issuer.down = True
    issuer.now += 23 * 3600
    assert (await keys.key("a")).key_id == "a"
    issuer.now += 2 * 3600
    with pytest.raises(KeysUnavailable):
        await keys.key("a")


def test_unusable_keys_are_left_out() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key()
    entries = [
        {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(weak)), "kid": "weak"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {**public_jwk("private"), "d": "AAAA"},
        {**public_jwk(""), "kid": ""},
        {"kty": "EC", "kid": "broken"},
        "nonsense",
        public_jwk("good"),
    ]
    assert list(read_key_set(json.dumps({"keys": entries}).encode())) == ["good"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys":{}}'])
def test_what_is_no_key_set_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_key_set(text)
