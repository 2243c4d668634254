"""Issuers, rules and identity tokens for tests: `Federated` sets one of each up, and signs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.control import Tenant

ISSUER = "https://issuer.internal.example"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str) -> dict[str, Any]:
    """The public half as a JWK."""
    if isinstance(key, rsa.RSAPrivateKey):
        made = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        made = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig"}


INLINE = {"type": "inline", "keys": [jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec")]}


def sign(claims: dict[str, Any], *, kid: str | None = "rsa", key: Any = RSA_KEY, algorithm: str = "RS256") -> str:
    """A compact JWS over exactly these claims."""
    return jwt.encode(claims, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


@dataclass
class Federated:
    """A tenant with an issuer, a service account and a rule for it."""

    tenant: Tenant
    issuer_id: str
    account_id: str
    rule_id: str
    issuer_url: str = ISSUER
    extra: dict[str, Any] = field(default_factory=dict)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good claims, changed; a value of None leaves one out."""
        now = int(time.time())
        good = {"iss": self.issuer_url, "sub": "ci", "aud": self.tenant.url, "iat": now, "exp": now + 300}
        return {name: value for name, value in (good | changes).items() if value is not None}

    def assertion(self, **changes: Any) -> str:
        return sign(self.claims(**changes))

    def body(self, assertion: str | None = None, **changes: Any) -> dict[str, Any]:
        """A good request, changed; a value of None leaves one out."""
        good = {
            "grant_type": GRANT_TYPE,
            "assertion": self.assertion() if assertion is None else assertion,
            "federation_rule_id": self.rule_id,
            "organization_id": self.tenant.organization_id,
        }
        return {name: value for name, value in (good | changes).items() if value is not None}

    def exchange(self, assertion: str | None = None, **changes: Any) -> httpx2.Response:
        with self.tenant.bare() as http:
            return http.post("/v1/oauth/token", json=self.body(assertion, **changes))

    def reasons(self) -> list[str | None]:
        """The history's reasons for this rule, newest first."""
        with self.tenant.as_operator() as http:
            page = http.get("/admin/v1/authentication_events", params={"rule_id": self.rule_id, "limit": "100"}).json()
        return [event["reason"] for event in page["data"]]

    def update_rule(self, **fields: Any) -> None:
        with self.tenant.as_operator() as http:
            ok(http.post(f"/v1/organizations/federation_rules/{self.rule_id}", json=fields))


def ok(response: httpx2.Response) -> Any:
    """The JSON of an answer that must be good."""
    assert response.status_code == 200, response.text
    return response.json()


def federate(tenant: Tenant, *, rule: dict[str, Any] | None = None, issuer: dict[str, Any] | None = None) -> Federated:
    """An issuer with inline keys, a service account, and a rule that gives `ci` the default workspace's tunnels."""
    with tenant.as_operator() as http:
        api = "/v1/organizations"
        account = ok(http.post(f"{api}/service_accounts", json={"name": "ci"}))["id"]
        source: dict[str, Any] = {"name": "ci", "issuer_url": ISSUER, "jwks": INLINE, "check_jti": False} | (
            issuer or {}
        )
        made = ok(http.post(f"{api}/federation_issuers", json=source))
        values = {
            "name": "ci",
            "issuer_id": made["id"],
            "match": {"subject_prefix": "ci"},
            "target": {"type": "service_account", "service_account_id": account},
            "oauth_scope": "workspace:manage_tunnels",
            "workspace_id": tenant.workspace_id,
        } | (rule or {})
        values = {name: value for name, value in values.items() if value is not None}
        rule_id = ok(http.post(f"{api}/federation_rules", content=json.dumps(values), headers=JSON))["id"]
    return Federated(tenant, made["id"], account, rule_id, source["issuer_url"])


JSON = {"content-type": "application/json"}
