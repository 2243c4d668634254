"""Access tokens: thirty ways to be wrong, each refused, and the right one."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from qanat.proxy.policy.token import (
    ScopeMissing,
    TokenPolicy,
    TokenRefused,
    check_scopes,
    header_value,
    key_id,
    verify,
)

NOW = 1_800_000_000.0
POLICY = TokenPolicy(
    issuer="https://sso.corp",
    audience=("https://wiki.t.example/mcp",),
    required_scopes=("wiki.read",),
    tool_scopes=(("delete_*", ("wiki.write",)),),
)
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, **extra: object) -> jwt.PyJWK:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return jwt.PyJWK({**json.loads(algorithm.to_jwk(key.public_key())), "kid": "k1", **extra})


def claims(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "iss": "https://sso.corp",
        "aud": "https://wiki.t.example/mcp",
        "sub": "alice",
        "client_id": "claude",
        "scope": "wiki.read openid",
        "iat": NOW - 10,
        "exp": NOW + 300,
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def token(body: dict[str, object] | None = None, key: Any = RSA_KEY, algorithm: str = "RS256", **header: object) -> str:
    fields = {"kid": "k1", "typ": "at+jwt", **header}
    return jwt.encode(body or claims(), key, algorithm, {name: value for name, value in fields.items() if value})


def check(text: str, key: jwt.PyJWK | None = None, policy: TokenPolicy = POLICY) -> Any:
    assert key_id(text, policy.algorithms) == "k1"
    return verify(text, key or jwk(RSA_KEY), policy, NOW)


def test_a_good_token_says_who_calls() -> None:
    caller = check(token())
    assert (caller.subject, caller.client_id, caller.expires_at) == ("alice", "claude", NOW + 300)
    assert caller.scopes == {"wiki.read", "openid"}
    check(token(key=EC_KEY, algorithm="ES256"), jwk(EC_KEY))
    check(token(claims(aud=["https://other", "https://wiki.t.example/mcp"])))
    check(token(typ=None))
    check(token(claims(exp=NOW - 20)))  # within the leeway


PUBLIC_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def hs256_with_the_public_key() -> str:
    # PyJWT refuses to sign with a PEM, so put the pieces together by hand, as an attacker would.
    import base64
    import hmac

    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "kid": "k1", "typ": "at+jwt"}) + b"." + part(claims())
    mac = base64.urlsafe_b64encode(hmac.digest(PUBLIC_PEM, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


BAD_TOKENS: dict[str, str] = {
    "empty": "",
    "not a jwt": "secret",
    "two parts": "a.b",
    "too long": "a" * 17_000,
    "unsigned": jwt.encode(claims(), "", "none", {"kid": "k1"}),
    "hmac with the public key": hs256_with_the_public_key(),
    "algorithm not listed": token(algorithm="PS512"),
    "no key id": jwt.encode(claims(), RSA_KEY, "RS256"),
    "critical header": token(crit=["x"], x=1),
    "other key": token(key=OTHER_KEY),
    "other key type": token(key=EC_KEY, algorithm="ES256"),
    "signature cut": token()[:-4],
    "payload swapped": ".".join(
        [token().split(".")[0], token(claims(sub="root")).split(".")[1], token().split(".")[2]]
    ),
    "wrong issuer": token(claims(iss="https://evil")),
    "issuer with a slash": token(claims(iss="https://sso.corp/")),
    "no issuer": token(claims(iss=None)),
    "wrong audience": token(claims(aud="https://mail.t.example/mcp")),
    "audience prefix": token(claims(aud="https://wiki.t.example/mcp2")),
    "no audience": token(claims(aud=None)),
    "audience of numbers": token(claims(aud=[1])),
    "expired": token(claims(exp=NOW - 31)),
    "no expiry": token(claims(exp=None)),
    "expiry as text": token(claims(exp="soon")),
    "not yet valid": token(claims(nbf=NOW + 60)),
    "issued in the future": token(claims(iat=NOW + 60)),
    "no subject": token(claims(sub=None)),
    "empty subject": token(claims(sub="")),
    "id token by nonce": token(claims(nonce="n")),
    "id token by at_hash": token(claims(at_hash="h")),
    "wrong type": token(typ="logout+jwt"),
    "expiry a boolean": token(claims(exp=True)),
}


@pytest.mark.parametrize("text", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
def test_a_bad_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        check(text)


def test_a_key_for_another_use_or_algorithm_is_not_taken() -> None:
    for key in (jwk(RSA_KEY, use="enc"), jwk(RSA_KEY, alg="RS512")):
        with pytest.raises(TokenRefused):
            check(token(), key)


def test_strict_mode_wants_the_access_token_type() -> None:
    strict = TokenPolicy(POLICY.issuer, POLICY.audience, strict_type=True)
    check(token(), policy=strict)
    with pytest.raises(TokenRefused):
        check(token(typ="JWT"), policy=strict)


def test_scopes_are_asked_for_by_route_and_by_tool() -> None:
    caller = check(token())
    check_scopes(caller, POLICY, ["get_page"])
    with pytest.raises(ScopeMissing) as caught:
        check_scopes(caller, POLICY, ["get_page", "delete_page"])
    assert caught.value.scopes == ("wiki.read", "wiki.write")
    check_scopes(check(token(claims(scope=None, scp=["wiki.read", "wiki.write"]))), POLICY, ["delete_page"])


@pytest.mark.parametrize(
    ("claim", "value"),
    [("alice", "alice"), (["a", "b"], "a b"), ("Zoë", "=?base64?Wm/Dqw==?="), ("a\r\nX: y", "=?base64?YQ0KWDogeQ==?=")],
)
def test_a_claim_becomes_a_safe_header_value(claim: object, value: str) -> None:
    assert header_value(claim) == value
