"""An authorization server of our own making for the proxy's tests: keys, metadata and introspection over TLS."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from qanat.proxy.dial import Families
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.planted import remember
from tests.support.proxy import Upstream, UpstreamPeer, upstream_running

HOST = "sso.corp.example"


@dataclass
class Issuer:
    """Signs tokens with its current key; `seen` holds the paths it was asked for."""

    ca_file: Path
    upstream: Upstream
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    down: bool = False
    moved_to: str = ""
    """Answer everything with a redirect to this place."""

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.upstream.port}"

    @property
    def seen(self) -> list[str]:
        return [request.target for request in self.upstream.seen]

    def rotate(self, kid: str) -> None:
        """Sign with a new key from now on; the old one is gone."""
        self.keys = {kid: ec.generate_private_key(ec.SECP256R1())}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        base = {
            "iss": self.url,
            "aud": "https://wiki.t.example/mcp",
            "sub": "alice",
            "client_id": "claude",
            "scope": "wiki.read",
            "iat": now,
            "exp": now + 300,
        }
        return {name: value for name, value in {**base, **changes}.items() if value is not None}

    def token(self, **changes: Any) -> str:
        kid, key = next(iter(self.keys.items()))
        return remember(jwt.encode(self.claims(**changes), key, "ES256", {"kid": kid, "typ": "at+jwt"}))

    async def answer(self, peer: UpstreamPeer) -> None:
        while True:
            request = await peer.request()
            if self.down:
                peer.abort()
                return
            if self.moved_to:
                peer.answer(b"", f"Location: {self.moved_to}{request.target}", status="302 Found")
                continue
            status, document = self._document(request.target, request.body)
            peer.answer(json.dumps(document).encode(), "Content-Type: application/json", status=status)

    def _document(self, target: str, body: bytes) -> tuple[str, dict[str, Any]]:
        if target == "/.well-known/oauth-authorization-server":
            return "200 OK", {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        if target == "/jwks":
            algorithm = jwt.algorithms.ECAlgorithm
            keys = [{**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid} for kid, key in self.keys.items()]
            return "200 OK", {"keys": keys}
        if target == "/introspect":
            token = parse_qs(body.decode())["token"][0]
            return "200 OK", self.active.get(token, {"active": False})
        return "404 Not Found", {}


async def lookup(name: str, families: Families) -> list[str]:
    """Every name is on this machine."""
    return ["127.0.0.1"]


@asynccontextmanager
async def issuer_running(folder: Path) -> AsyncIterator[Issuer]:
    """An issuer behind TLS on a port of its own."""
    ca = throwaway_ca("sso CA")
    server = throwaway_server(ca, HOST)
    (folder / "sso-ca.pem").write_bytes(ca.certificate_pem)
    (folder / "sso.pem").write_bytes(server.certificate_pem + server.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "sso.pem")
    issuer: Issuer | None = None

    async def script(peer: UpstreamPeer) -> None:
        assert issuer is not None
        await issuer.answer(peer)

    async with upstream_running(script, context) as upstream:
        issuer = Issuer(folder / "sso-ca.pem", upstream)
        issuer.rotate("k1")
        yield issuer
