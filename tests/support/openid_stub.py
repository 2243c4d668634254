"""An OpenID provider that says whatever a test wants, over plain HTTP on loopback; and a browser that visits it."""

from __future__ import annotations

import contextlib
import html
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.control import plain_client
from tests.support.http_stub import Asked, http_stub
from tests.support.planted import remember

CLIENT_ID, CLIENT_SECRET = "console", "console-client-secret"


@dataclass
class OpenIDStub:
    """`claims` go into the next ID tokens, `document` changes discovery; `asked` holds method and path."""

    port: int = 0
    claims: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    token_answer: tuple[int, bytes] | None = None
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    authorization: str = ""
    nonce: str = ""
    down: bool = False

    def __post_init__(self) -> None:
        self.rotate("k1")

    def rotate(self, kid: str) -> None:
        """Sign with another key from now on, and publish that one alone."""
        self.key, self.kid, self.published = ec.generate_private_key(ec.SECP256R1()), kid, True

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **changes: Any) -> dict[str, Any]:
        """`console.single_sign_on` of a control plane that trusts it."""
        policy = {
            "allow_hosts": ["127.0.0.1"],
            "allow_http_hosts": ["127.0.0.1"],
            "allow_ports": [self.port],
        }
        base = {"issuer": self.issuer, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        roles = {"manage": ["tunnel-admins"], "read_only": ["staff"]}
        return {**base, **roles, "name": "Corp SSO", "fetch_policy": policy, **changes}

    def id_token(self) -> str:
        now = int(time.time())
        base = {"iss": self.issuer, "aud": CLIENT_ID, "sub": "u-1", "nonce": self.nonce, "iat": now, "exp": now + 300}
        claims = {name: value for name, value in {**base, **self.claims}.items() if value is not None}
        return remember(jwt.encode(claims, self.key, "ES256", {"kid": self.kid}))

    def hear(self, asked: Asked) -> tuple[int, bytes]:
        """Note a request, and answer it."""
        self.asked.append(f"{asked.method} {asked.path}")
        self.authorization = asked.authorization
        if asked.body:
            self.forms.append(dict(parse_qsl(asked.body.decode())))
        if asked.path == "/authorize":
            return 200, self.page(dict(parse_qsl(asked.query)))
        return self.answer(asked.path)

    def page(self, query: dict[str, str]) -> bytes:
        """What a person sees there: a link back, as whoever `claims` says."""
        self.nonce = query["nonce"]
        back = f"{query['redirect_uri']}?{urlencode({'state': query['state'], 'code': 'a-code'})}"
        return f"<!doctype html><title>Provider</title><a href='{html.escape(back)}'>Continue</a>".encode()

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and body for a request."""
        if self.down:
            return 503, b"down"
        found: dict[str, Any]
        if path == "/token":
            if self.token_answer is not None:
                return self.token_answer
            found = {"id_token": self.id_token(), "access_token": "stub-access-token", "token_type": "Bearer"}
        elif path == "/userinfo":
            found = {"sub": "u-1", **self.userinfo}
        elif path == "/jwks":
            key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
            found = {"keys": [{**key, "kid": self.kid, "use": "sig"}] if self.published else []}
        else:
            ends = {"authorization": "authorize", "token": "token", "userinfo": "userinfo", "end_session": "bye"}
            found = {f"{name}_endpoint": f"{self.issuer}/{path}" for name, path in ends.items()}
            found |= {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", **self.document}
        return 200, json.dumps(found).encode()


@contextlib.contextmanager
def openid_stub() -> Iterator[OpenIDStub]:
    """A stub that listens until the block ends."""
    stub = OpenIDStub()
    with http_stub(stub.hear) as stub.port:
        yield stub


@dataclass
class Visitor:
    """A browser without script: it keeps cookies, and follows the provider's redirect by hand."""

    url: str
    stub: OpenIDStub

    def __post_init__(self) -> None:
        limits = httpx2.Limits(max_keepalive_connections=0)
        self.client = plain_client(base_url=self.url, limits=limits)

    def depart(self, return_to: str = "") -> dict[str, str]:
        """Press the button; returns what the provider is asked."""
        asked = {"return_to": return_to} if return_to else {}
        answer = self.client.get("/console/sign-in/provider", params=asked)
        assert answer.status_code == 303, answer.text
        where = answer.headers["location"]
        assert where.startswith(f"{self.stub.issuer}/authorize?")
        query = {name: values[0] for name, values in parse_qs(urlsplit(where).query).items()}
        self.stub.nonce = query["nonce"]
        return query

    def arrive(self, **answer: str) -> httpx2.Response:
        """Come back from the provider."""
        return self.client.get("/console/sign-in/callback", params=answer)

    def sign_in(self, claims: dict[str, Any], return_to: str = "") -> httpx2.Response:
        """The whole way, as a person with these claims."""
        self.stub.claims = claims
        query = self.depart(return_to)
        return self.arrive(state=query["state"], code="a-code")
