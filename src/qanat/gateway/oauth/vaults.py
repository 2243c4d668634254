"""Vaults: credentials of users for MCP servers, obtained in the browser, attached to requests, kept fresh.

A refresh happens once however many calls want it: a lock for each credential in this process, and a version in the
store against other gateways.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import unquote, urlencode, urlsplit
from weakref import WeakValueDictionary

import httpx2
from mcp.shared.auth_utils import resource_url_from_server_url
from pydantic import SecretStr

from qanat.gateway.access import Caller
from qanat.gateway.config import OAuthSection
from qanat.gateway.oauth import token_endpoint
from qanat.gateway.oauth.discovery import discover, missing_scope, union
from qanat.gateway.oauth.fetch import Fetcher
from qanat.gateway.oauth.model import Credential, Endpoints, OAuthClient, SignInFailed, granted, refreshed
from qanat.gateway.oauth.store import Key, Registration, Store, Stored, load_master_key
from qanat.gateway.oauth.token_endpoint import RefreshRefused
from qanat.gateway.oauth.tunnel_config import TunnelOAuth, problems
from qanat.gateway.reach import Reach
from qanat.logger import get_logger

log = get_logger("qanat.gateway")
MAX_SIGN_INS = 1000
SIGN_IN_LIFETIME = 600.0
RETRY_REFRESH = 30.0
"""Seconds after which a refresh is tried again that could not be asked for: callers must not queue up for it."""


@dataclass(frozen=True, repr=False)
class Wish:
    """What a caller asks for: access to a server, kept in a vault."""

    vault: str
    url: str
    tunnel_oauth: TunnelOAuth | None = None
    client: OAuthClient | None = None
    scopes: str | None = None


@dataclass(frozen=True, repr=False)
class Redirect:
    """What the browser brought back."""

    state: str
    cookie: str
    code: str | None = None
    issuer: str | None = None
    error: str | None = None


@dataclass(repr=False)
class SignIn:
    """A sign-in that has begun and waits for the browser. `cookie` binds it to the browser that opened its page."""

    caller: Caller
    key: Key
    endpoints: Endpoints
    client: OAuthClient
    verifier: str
    state: str
    cookie: str
    expires: float
    opened: bool = False

    @property
    def host(self) -> str:
        """Where the user is being sent."""
        return urlsplit(self.endpoints.authorization).hostname or ""


class Vaults:
    """All vaults of a gateway. Close it with `aclose`."""

    def __init__(self, reach: Reach, config: OAuthSection) -> None:
        self._config, self._reach = config, reach
        self._fetch = Fetcher(reach, config)
        self._store = Store(config.database, load_master_key(config.key_file))
        self._sign_ins: OrderedDict[str, SignIn] = OrderedDict()
        self._failed: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        """Versions that could not be refreshed, and until when nobody tries again."""
        self._refreshes: set[asyncio.Task[Stored | None]] = set()
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def aclose(self) -> None:
        await asyncio.gather(*self._refreshes, return_exceptions=True)  # each is bounded
        await self._fetch.aclose()

    @property
    def redirect_uri(self) -> str:
        return f"{self._config.public_url.rstrip('/')}/oauth/callback"

    @property
    def client_document(self) -> str:
        """The URL that is our client id where documents are taken."""
        return f"{self._config.public_url.rstrip('/')}/oauth/client"

    # Signing in.

    async def begin(self, caller: Caller, wish: Wish) -> SignIn:
        """Find out where the user signs in, and as which client. Raises `SignInFailed`."""
        key, client = Key(*caller.scope, wish.vault, wish.url), wish.client
        if wish.tunnel_oauth is not None:
            await self.check_tunnel_oauth(caller, wish.tunnel_oauth)
            endpoints = wish.tunnel_oauth.endpoints(resource_url_from_server_url(wish.url))
            client = wish.tunnel_oauth.client()
        else:
            stored = await self._store.get(key)
            old = (stored.credential.scope, stored.credential.missing_scope) if stored is not None else ()
            extra = " ".join(filter(None, [wish.scopes, *old]))
            endpoints = await discover(self._fetch, caller, wish.url, extra)
            self._fetch.check_page(endpoints.authorization)
        client = client or await self._client(caller, endpoints)
        state, verifier, cookie = (secrets.token_urlsafe(size) for size in (32, 96, 32))
        sign_in = SignIn(caller, key, endpoints, client, verifier, state, cookie, time.monotonic() + SIGN_IN_LIFETIME)
        self._sign_ins[state] = sign_in
        while len(self._sign_ins) > MAX_SIGN_INS:
            self._sign_ins.popitem(last=False)
        return sign_in

    async def check_tunnel_oauth(self, caller: Caller, config: TunnelOAuth) -> None:
        """Whether the stated endpoints may be used, now. Raises `SignInFailed`."""
        own: set[str] = set()
        for url in (config.token_endpoint, config.registration_endpoint):
            host = (urlsplit(url).hostname or "").lower() if url else ""
            if await self._reach.owns(caller, host):
                own.add(host)
        found = problems(config, lambda host: self._reach.tunnel_domain(host) is not None, own.__contains__)
        if found:
            raise SignInFailed("invalid_tunnel_oauth", "; ".join(found))

    async def _client(self, caller: Caller, endpoints: Endpoints) -> OAuthClient:
        """Our client at an authorization server: a document where that is taken, else registered once for each."""
        if endpoints.takes_client_documents and self._config.client_documents:
            return OAuthClient(self.client_document)
        where = Registration(*caller.scope, endpoints.issuer, self.redirect_uri)
        client = await self._store.client(where)
        if client is None:
            client = await token_endpoint.register(self._fetch, caller, endpoints, self.redirect_uri)
            await self._store.put_client(where, client)
        return client

    async def _forget_client(self, caller: Caller, issuer: str) -> None:
        await self._store.forget_client(Registration(*caller.scope, issuer, self.redirect_uri))

    def authorization_url(self, sign_in: SignIn) -> str:
        """Where the browser goes."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(sign_in.verifier.encode()).digest()).decode().rstrip("=")
        parameters = {
            "response_type": "code",
            "client_id": sign_in.client.client_id,
            "redirect_uri": self.redirect_uri,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "state": sign_in.state,
            "resource": sign_in.endpoints.resource,
        }
        if sign_in.endpoints.scope:
            parameters["scope"] = sign_in.endpoints.scope
            if "offline_access" in sign_in.endpoints.scope.split():
                parameters["prompt"] = "consent"  # OpenID Connect Core 11: without it there is no refresh token
        separator = "&" if urlsplit(sign_in.endpoints.authorization).query else "?"
        return f"{sign_in.endpoints.authorization}{separator}{urlencode(parameters)}"

    def waiting(self, state: str) -> SignIn | None:
        """The sign-in with that state, if it still waits."""
        sign_in = self._sign_ins.get(state)
        return sign_in if sign_in is not None and time.monotonic() < sign_in.expires else None

    def open(self, state: str, cookie: str) -> SignIn | None:
        """The sign-in for the browser that opens its page; for the first one only, and for that one again."""
        sign_in = self.waiting(state)
        if sign_in is None or (sign_in.opened and not hmac.compare_digest(cookie.encode(), sign_in.cookie.encode())):
            return None
        sign_in.opened = True
        return sign_in

    async def complete(self, back: Redirect) -> SignIn:
        """The browser is back. A state works once, in the browser it was given to. Raises `SignInFailed`."""
        sign_in = self.waiting(back.state)
        if sign_in is None or not hmac.compare_digest(back.cookie.encode(), sign_in.cookie.encode()):
            raise SignInFailed("invalid_state", "This sign-in is unknown, over, or was begun in another browser.")
        del self._sign_ins[back.state]
        if back.issuer is None and sign_in.endpoints.sends_issuer:
            raise SignInFailed("missing_issuer", "The authorization server did not say who it is.")
        if back.issuer is not None and back.issuer != sign_in.endpoints.issuer:
            raise SignInFailed("issuer_mismatch", "Another authorization server answered.")
        if back.error is not None or not back.code:
            raise SignInFailed(back.error or "missing_code", "The authorization server did not grant access.")
        form = {"code": back.code, "code_verifier": sign_in.verifier, "redirect_uri": self.redirect_uri}
        try:
            answer = await token_endpoint.exchange(self._fetch, sign_in.caller, sign_in.endpoints, sign_in.client, form)
        except SignInFailed as failure:
            if failure.error == "invalid_client":  # it has forgotten us: register again next time
                await self._forget_client(sign_in.caller, sign_in.endpoints.issuer)
            raise
        await self._store.put(sign_in.key, granted(sign_in.endpoints, sign_in.client, answer, time.time()))
        log.info("sign-in complete", vault=sign_in.key.vault, host=sign_in.host)
        return sign_in

    def start_url(self, sign_in: SignIn) -> str:
        """The page of ours that begins the redirect; whoever opens it first is bound to it by a cookie."""
        return f"{self._config.public_url.rstrip('/')}/oauth/start/{sign_in.state}"

    def document(self) -> dict[str, object]:
        """Our client metadata document (CIMD)."""
        return {
            "client_id": self.client_document,
            "client_name": "qanat gateway",
            "redirect_uris": [self.redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }

    # Keeping.

    async def put_static(self, caller: Caller, vault: str, url: str, token: SecretStr) -> None:
        """Store a bearer token that is never refreshed."""
        credential = Credential(kind="static_bearer", access_token=token.get_secret_value())
        await self._store.put(Key(*caller.scope, vault, url), credential)

    async def describe(self, caller: Caller, vault: str) -> list[dict[str, object]]:
        """What a vault holds, without any secret."""
        rows: list[dict[str, object]] = []
        for url in await self._store.urls(Key(*caller.scope, vault, "")):
            stored = await self._store.get(Key(*caller.scope, vault, url))
            if stored is not None:
                credential = stored.credential
                wanting = credential.needs_sign_in or credential.missing_scope is not None
                row = {"url": url, "kind": credential.kind, "status": "needs_sign_in" if wanting else "active"}
                rows.append({**row, "scope": credential.scope, "missing_scope": credential.missing_scope})
        return rows

    async def disconnect(self, caller: Caller, vault: str, url: str) -> bool:
        """Give a credential back and forget it; False when there is none."""
        key = Key(*caller.scope, vault, url)
        stored = await self._store.get(key)
        if stored is None:
            return False
        try:
            await token_endpoint.revoke(self._fetch, caller, stored.credential)
        except SignInFailed as failure:
            log.warn("token not revoked", vault=vault, error=failure.error)
        await self._store.delete(key)
        # A registration that the authorization server has lost would otherwise stand in the way for ever.
        await self._forget_client(caller, stored.credential.issuer)
        return True

    # Using.

    async def find(self, caller: Caller, vault: str, url: str) -> Key | None:
        """The key of the credential for a server: same origin, and the longest path that leads to it."""
        keys = [Key(*caller.scope, vault, known) for known in await self._store.urls(Key(*caller.scope, vault, ""))]
        fitting = [key for key in keys if covers(key.url, url)]
        return max(fitting, key=lambda key: len(key.url), default=None)

    async def token(self, caller: Caller, key: Key, refused: str | None = None) -> str | None:
        """A token to use now; refreshed when it is due, or when `refused` is the one that was just turned down."""
        stored = await self._store.get(key)
        if stored is None or not _wants_refresh(stored, refused):
            return stored.credential.access_token if stored is not None else None
        # A caller who leaves must not take along what the answer brings: the old refresh token may be spent.
        task = asyncio.create_task(self._fresh(caller, key, refused), name="refresh")
        self._refreshes.add(task)
        task.add_done_callback(self._refreshed)
        stored = await asyncio.shield(task)
        return stored.credential.access_token if stored is not None else None

    def _refreshed(self, task: asyncio.Task[Stored | None]) -> None:
        self._refreshes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have gone

    async def _fresh(self, caller: Caller, key: Key, refused: str | None) -> Stored | None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            stored = await self._store.get(key)  # whoever held the lock before may have done it
            if stored is not None and _wants_refresh(stored, refused):
                stored = await self._refresh(caller, key, stored)
        return stored

    async def note_missing_scope(self, key: Key, scope: str) -> None:
        """The server wants more than was granted: the user's next sign-in asks for what they have and for that."""
        stored = await self._store.get(key)
        if stored is None or stored.credential.kind != "oauth":
            return
        wanted = union(stored.credential.missing_scope, scope)
        if wanted != stored.credential.missing_scope:
            log.warn("server wants more scopes", vault=key.vault, scope=scope)
            changed = stored.credential.model_copy(update={"missing_scope": wanted})
            await self._store.replace(key, changed, stored.version)

    async def _refresh(self, caller: Caller, key: Key, stored: Stored) -> Stored | None:
        failed_version, until = self._failed.get(key, (0, 0.0))
        if failed_version == stored.version and time.monotonic() < until:
            return stored
        try:
            answer = await token_endpoint.refresh(self._fetch, caller, stored.credential)
            return await self._keep(key, stored, refreshed(stored.credential, answer, time.time()))
        except RefreshRefused as refusal:
            log.warn("user must sign in again", vault=key.vault, error=refusal.error)
            new = stored.credential.model_copy(update={"needs_sign_in": True})
            if await self._store.replace(key, new, stored.version):
                return Stored(new, stored.version + 1)
            return await self._store.get(key)  # another gateway was faster
        except SignInFailed as failure:
            log.warn("token not refreshed", vault=key.vault, error=failure.error)
            self._failed[key] = stored.version, time.monotonic() + RETRY_REFRESH
            while len(self._failed) > MAX_SIGN_INS:
                self._failed.popitem(last=False)
            return stored

    async def _keep(self, key: Key, before: Stored, new: Credential) -> Stored | None:
        """Store what a refresh brought. The old refresh token may be spent, so it must not be lost to a note that was
        taken meanwhile, nor to a gateway that came too late and was refused: only another grant wins."""
        found: Stored | None = before
        while found is not None and found.credential.refresh_token == before.credential.refresh_token:
            merged = new.model_copy(update={"missing_scope": found.credential.missing_scope})
            if await self._store.replace(key, merged, found.version):
                return Stored(merged, found.version + 1)
            found = await self._store.get(key)
        return found


def _wants_refresh(stored: Stored, refused: str | None) -> bool:
    credential = stored.credential
    if credential.refresh_token is None or credential.needs_sign_in:
        return False
    return credential.is_due(time.time()) or credential.access_token == refused


def covers(stored: str, url: str) -> bool:
    """Whether a credential stored for one URL may be sent to another: same origin, path below."""
    a, b = urlsplit(stored), urlsplit(url)
    if (a.scheme, a.netloc.lower()) != (b.scheme, b.netloc.lower()):
        return False
    if any(segment in (".", "..") for segment in unquote(b.path).replace("\\", "/").split("/")):
        return False  # whoever resolves it may end up elsewhere
    path = a.path.rstrip("/")
    return b.path == path or b.path.startswith(f"{path}/") or not path


class VaultAuth(httpx2.Auth):
    """Attaches a vault's token to each request, and tries once more with a fresh one after a 401."""

    def __init__(self, vaults: Vaults, caller: Caller, key: Key) -> None:
        self._vaults, self._caller, self._key = vaults, caller, key

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        token = await self._vaults.token(self._caller, self._key)
        if token is not None:
            request.headers["authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 403 and (scope := missing_scope(response)) is not None:
            await self._vaults.note_missing_scope(self._key, scope)
        if response.status_code != 401 or token is None:
            return
        fresh = await self._vaults.token(self._caller, self._key, refused=token)
        if fresh is not None and fresh != token:
            request.headers["authorization"] = f"Bearer {fresh}"
            yield request


@dataclass(frozen=True)
class OpenVault:
    """One caller's vault, for the length of a request."""

    vaults: Vaults
    caller: Caller
    name: str

    async def auth(self, url: str) -> httpx2.Auth | None:
        """What authenticates requests to a server; None when the vault holds nothing for it."""
        key = await self.vaults.find(self.caller, self.name, url)
        return VaultAuth(self.vaults, self.caller, key) if key is not None else None
