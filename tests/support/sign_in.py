"""Signing in at a real OpenID provider from a gateway: the private network, and a browser made of an HTTP client."""

from __future__ import annotations

import html
import json
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qanat.proxy.config import parse_config
from qanat.proxy.document import Document
from qanat.proxy.server import serve as serve_proxy
from tests.support.asgi import serve_asgi
from tests.support.edge import connect, make_tunnel
from tests.support.gateway import Wiki, wiki_server
from tests.support.oidc_provider import OIDCProvider, require_provider
from tests.support.path import PathParts, Served, write_files
from tests.support.pki import throwaway_ca, throwaway_server
from tests.support.planted import remember
from tests.support.ports import free_port

SCOPE = "wiki.read"
SECRET_FIELDS = {"code", "code_verifier", "refresh_token", "client_secret", "client_assertion"}


@dataclass
class AuthShim:
    """The authorization server as the tunnel's route `auth` shows it: its metadata can be edited, requests counted."""

    provider: OIDCProvider
    metadata: dict[str, Any] | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    fail: int | None = None

    @property
    def refreshes(self) -> int:
        return sum(form.get("grant_type") == "refresh_token" for _, form in self.requests)

    async def endpoint(self, request: Request) -> Response:
        path = request.url.path
        if path.startswith("/.well-known/"):
            return JSONResponse(self.metadata) if self.metadata is not None else Response(status_code=404)
        content = await request.body()
        form = dict(httpx2.QueryParams(content.decode())) if b"=" in content else {}
        self.requests.append((path, form))
        for name in SECRET_FIELDS & form.keys():
            remember(form[name])
        if self.fail is not None:
            return JSONResponse({"error": "invalid_grant"}, self.fail)
        headers = {name: request.headers[name] for name in ("content-type", "authorization") if name in request.headers}
        context = ssl.create_default_context(cafile=str(self.provider.ca_file))
        async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
            url = f"https://localhost:{self.provider.port}{path}"
            answer = await http.request(request.method, url, content=content, headers=headers)
        return Response(answer.content, answer.status_code, {"content-type": answer.headers.get("content-type", "")})


@asynccontextmanager
async def provider_running(
    folder: Path, issuer: str | None, resource: str, clients: Sequence[dict[str, Any]] = (), **more: Any
) -> AsyncIterator[OIDCProvider]:
    """A provider with sign-in pages and registration, at `https://localhost:<port>`; `more` are settings."""
    require_provider()
    ca = throwaway_ca("sso CA")
    server = throwaway_server(ca, "localhost")
    for name, content in (("oidc-ca.pem", ca.certificate_pem), ("oidc.pem", server.certificate_pem)):
        (folder / name).write_bytes(content)
    (folder / "oidc.key").write_bytes(server.key_pem)
    port = free_port()
    algorithm = jwt.algorithms.RSAAlgorithm
    key = json.loads(algorithm.to_jwk(rsa.generate_private_key(65537, 2048)))
    del key["key_ops"]  # says "sign" alone, and the provider verifies with it as well
    keys = [{**key, "kid": "k1", "alg": "RS256", "use": "sig"}]  # what registered clients get ID tokens with by default
    options = {
        "issuer": issuer or f"https://localhost:{port}",
        "interactions": True,
        "registration": True,
        "keys": keys,
        **more,
    }
    provider = OIDCProvider(folder, {resource: SCOPE}, port, clients=list(clients), options=options)
    try:
        await provider.start("k1")
        yield provider
    finally:
        await provider.stop()


@dataclass
class Network:
    """A private network: an enforced wiki, and the provider behind the route `auth`."""

    served: Served
    provider: OIDCProvider
    shim: AuthShim
    wiki: Wiki

    @property
    def public(self) -> str:
        """Where browsers find the provider."""
        return f"https://localhost:{self.provider.port}"

    @property
    def auth(self) -> str:
        """Where the gateway finds it through the tunnel."""
        return f"https://auth.{self.served.record.domain}"


@asynccontextmanager
async def network_running(parts: PathParts, folder: Path, shape: str) -> AsyncIterator[Network]:
    """A network in one of the shapes.

    A: public provider, B: split metadata, C: fixed metadata of an internal issuer; the MCP server asks for sign-in
    itself. D: public provider, and the proxy asks in its place.
    """
    ca = throwaway_ca()
    tunnel = make_tunnel(certificates=(ca.certificate_pem.decode(),))
    owner = {"organization_id": "org_a", "workspace_id": "wrkspc_a"}
    tunnel.record = tunnel.record.model_copy(update=owner)
    parts.directory.add(tunnel)
    write_files(folder, ca, tunnel.record.domain)
    served = Served(tunnel, ca, folder)
    auth = f"https://auth.{tunnel.record.domain}"
    issuer = {"A": None, "B": auth, "C": "https://sso.corp.internal", "D": None}[shape]
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        provider = await enter(provider_running(folder, issuer, served.url("wiki")))
        shim = AuthShim(provider)
        public = f"https://localhost:{provider.port}"
        if shape == "B":
            shim.metadata = split_metadata(auth, public)
        methods = ["GET", "POST"]
        shim_url = await enter(serve_asgi(Starlette(routes=[Route("/{path:path}", shim.endpoint, methods=methods)])))
        name = issuer or public
        protection = {} if shape == "D" else protect(provider, name, served.url("wiki"))
        wiki = await enter(wiki_server(**protection))
        route: dict[str, Any] = {"upstream": wiki.url.removesuffix("/mcp")}
        if shape == "D":
            route["auth"] = enforce(provider, name, public, served.url("wiki"))
        data = {
            "listen_addr": "127.0.0.1:0",
            "tunnel_domain": tunnel.record.domain,
            "tls": {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")},
            "routes": {"wiki": route, "auth": shim_url},
            "upstream": {"allowed_ips": ["127.0.0.0/8"]},
            "shutdown_timeout": "1s",
        }
        config = parse_config(Document(yaml.safe_dump(data).encode(), "config.yaml"))
        proxy = await enter(serve_proxy(config, listen=False))
        connector = await connect(parts.server.connector_address, parts.files, tunnel.token, proxy.proxy)
        stack.callback(connector.close)
        yield Network(served, provider, shim, wiki)


def enforce(provider: OIDCProvider, issuer: str, public: str, resource: str) -> dict[str, Any]:
    """What the proxy is told so that it asks for sign-in."""
    return {
        "mode": "oauth",
        "resource": resource,
        "authorization_servers": [issuer],
        "issuer": issuer,
        "jwks_uri": f"{public}/jwks",
        "allowed_ips": ["127.0.0.0/8"],
        "ca_file": str(provider.ca_file),
        "required_scopes": [SCOPE],
    }


def protect(provider: OIDCProvider, issuer: str, resource: str) -> dict[str, Any]:
    """What the SDK's server is told so that it asks for sign-in itself."""
    settings: dict[str, Any] = {"issuer_url": issuer, "resource_server_url": resource, "required_scopes": [SCOPE]}
    settings["validate_token_resource"] = False  # the verifier does that
    key = jwt.PyJWK(provider.options["keys"][0]).key
    return {"auth": AuthSettings.model_validate(settings), "token_verifier": Verifier(key, issuer, resource)}


@dataclass
class Verifier:
    """Checks the provider's tokens: signature, issuer, audience, lifetime."""

    key: Any
    issuer: str
    resource: str

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            key = self.key.public_key()
            claims = jwt.decode(token, key, ["RS256"], audience=self.resource, issuer=self.issuer)
        except jwt.InvalidTokenError:
            return None
        scopes = claims.get("scope", "").split()
        return AccessToken(token=token, client_id=claims["client_id"], scopes=scopes, expires_at=claims["exp"])


def split_metadata(auth: str, public: str) -> dict[str, Any]:
    """Metadata whose sign-in page is for browsers and whose other endpoints are for the tunnel."""
    return {
        "issuer": auth,
        "authorization_endpoint": f"{public}/auth",
        "token_endpoint": f"{auth}/token",
        "registration_endpoint": f"{auth}/reg",
        "revocation_endpoint": f"{auth}/token/revocation",
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": [SCOPE, "offline_access"],
        "authorization_response_iss_parameter_supported": True,
    }


class Browser:
    """Follows links and fills the provider's two forms."""

    def __init__(self, ca_file: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca_file))
        self.http = httpx2.AsyncClient(verify=context, trust_env=False, timeout=30)
        self.visited: list[httpx2.URL] = []

    async def go(self, response: httpx2.Response) -> httpx2.Response:
        """Follow redirects and forms until a page stands still."""
        while True:
            self.visited.append(response.request.url)
            if response.is_redirect:
                response = await self.http.get(response.request.url.join(response.headers["location"]))
            elif (form := re.search(r'<form[^>]*action="([^"]+)"', response.text)) is not None:
                prompt = re.search(r'name="prompt" value="(\w+)"', response.text)
                fields = {"prompt": prompt[1] if prompt else "login", "login": "alice"}
                fields["password"] = secrets.token_hex(4)
                url = response.request.url.join(html.unescape(form[1]))
                response = await self.http.post(url, data=fields)
            else:
                return response

    async def sign_in(self, start_url: str) -> httpx2.Response:
        """Open the gateway's page and press Continue; the last page is the gateway's again."""
        page = await self.http.get(start_url)
        link = re.search(r'href="([^"]+)"', page.text)
        if link is None:
            return page
        return await self.go(await self.http.get(html.unescape(link[1])))
