"""The proxy as an OAuth resource server (RFC 6750, RFC 9728), for a route whose own server is none.

It checks tokens and says where to get one; it issues none, and shows no login page. Every refused token gets the same
answer, whatever was wrong with it; the reason is in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from qanat.errors import QanatError
from qanat.logger import get_logger
from qanat.net.http1_fields import Header, values
from qanat.proxy.errors import BadRequest, Reply
from qanat.proxy.filters import FilteredRequest
from qanat.proxy.policy.config import AuthConfig
from qanat.proxy.policy.fetch import Fetcher, FetchFailed
from qanat.proxy.policy.keys import KeySet
from qanat.proxy.policy.token import (
    Caller,
    ScopeMissing,
    TokenPolicy,
    TokenRefused,
    check_scopes,
    header_value,
    judge_claims,
    key_id,
    verify,
)

PRM_PATH = "/.well-known/oauth-protected-resource"
AS_METADATA_PATH = "/.well-known/oauth-authorization-server"
MAX_SESSIONS = 100_000
MAX_INTROSPECTED = 10_000
SessionOwners = OrderedDict[str, tuple[str, str, str | None]]
"""From the hash of a session's id to whose it is."""
_CORS: tuple[Header, ...] = (
    (b"Access-Control-Allow-Origin", b"*"),
    (b"Access-Control-Allow-Methods", b"GET, OPTIONS"),
    (b"Access-Control-Allow-Headers", b"Authorization, Content-Type, MCP-Protocol-Version"),
)

_log = get_logger("qanat.proxy.auth")


@dataclass(frozen=True, slots=True)
class Times:
    """Two clocks: Unix seconds for what tokens say, monotonic seconds for caches."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]


class RouteAuth:
    """Sign-in for one route. `resource` is the URL that tokens are for."""

    def __init__(
        self, config: AuthConfig, resource: str, fetcher: Fetcher, times: Times, sessions: SessionOwners
    ) -> None:
        issuer = config.issuer or config.authorization_servers[0]
        self._config, self.resource, self._fetcher, self._times = config, resource, fetcher, times
        self.policy = TokenPolicy(
            issuer=issuer,
            audience=config.audience or (resource,),
            algorithms=config.algorithms,
            required_scopes=config.required_scopes,
            tool_scopes=tuple(config.tool_scopes.items()),
            leeway=config.leeway.total_seconds(),
            strict_type=config.strict_type,
        )
        self._keys = KeySet(self._fetch_keys, times.monotonic)
        self._introspected: OrderedDict[str, tuple[float, Caller]] = OrderedDict()
        self._sessions = sessions
        parts = urlsplit(resource)
        self.own_paths = {PRM_PATH, PRM_PATH + parts.path.rstrip("/")}
        """Paths that are answered here, whatever the method."""
        if config.legacy_as_metadata:
            self.own_paths.add(AS_METADATA_PATH)
        self._prm_url = f"{parts.scheme}://{parts.netloc}{PRM_PATH}{parts.path.rstrip('/')}"

    async def close(self) -> None:
        """Close connections to the authorization server."""
        await self._fetcher.close()

    async def answer_itself(self, request: FilteredRequest) -> Reply | None:
        """Answers to what is asked of the resource server itself, before any sign-in."""
        path = request.target.partition(b"?")[0].decode("latin-1")
        own = path in self.own_paths
        if request.method == b"OPTIONS" and (own or not values(request.headers, b"authorization")):
            return Reply(204, (*_CORS, (b"Content-Length", b"0")), b"")
        if not own:
            return None
        if path == AS_METADATA_PATH:
            document = await self._fetcher.get(_metadata_urls(self._config.authorization_servers[0])[0])
            return _json_reply(200, document, *_CORS)
        return self._metadata()

    async def sign_in(self, request: FilteredRequest) -> Caller | Reply:
        """Who calls, by the bearer token; or the answer that asks for a better one.

        Raises `BadRequest` for an ambiguous request, `KeysUnavailable` or `FetchFailed` when nobody can be let in.
        """
        token = self._token(request)
        if token is None:
            return self._challenge(401, None)
        try:
            caller = await self._verify(token)
            self._check_session(request, caller)
            check_scopes(caller, self.policy, [])
        except TokenRefused as refused:
            _log.warn("token refused", route=request.route, request_id=request.request_id, reason=refused.reason)
            return self._challenge(401, "invalid_token")
        except ScopeMissing as missing:
            return self.scope_challenge(missing)
        except SessionNotYours:
            _log.warn("session of another caller", route=request.route, request_id=request.request_id)
            return _session_not_found()
        return caller

    def scope_challenge(self, missing: ScopeMissing) -> Reply:
        """The 403 that tells a client which scopes to ask for (RFC 6750 3.1)."""
        return self._challenge(403, "insufficient_scope", missing.scopes)

    def rewrite_headers(self, headers: list[Header], caller: Caller) -> None:
        """Take out the token and forged identity headers, put in what was verified."""
        names = {name.lower().encode() for name in self._config.identity_headers}
        if self._config.forward == "strip":
            names.add(b"authorization")
        headers[:] = [header for header in headers if not named_among(header, names)]
        claims: dict[str, Any] = {
            **caller.claims, "client_id": caller.client_id, "scope": " ".join(sorted(caller.scopes))
        }  # fmt: skip
        for name, claim in self._config.identity_headers.items():
            if (value := claims.get(claim)) is not None:
                headers.append((name.encode("ascii"), header_value(value).encode("ascii")))

    def bind_session(self, session: bytes, caller: Caller) -> None:
        """Remember whose a new session is."""
        key = hashlib.sha256(session).hexdigest()
        self._sessions[key] = _principal(caller)
        self._limit_sessions()

    def _limit_sessions(self) -> None:
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _check_session(self, request: FilteredRequest, caller: Caller) -> None:
        for session in values(request.headers, b"mcp-session-id"):
            key = hashlib.sha256(session).hexdigest()
            owner = self._sessions.setdefault(key, _principal(caller))  # seen first here: another replica opened it
            self._sessions.move_to_end(key)
            self._limit_sessions()
            if owner != _principal(caller):
                raise SessionNotYours

    def _token(self, request: FilteredRequest) -> str | None:
        if b"access_token=" in request.target.partition(b"?")[2]:
            raise BadRequest("access token in the query")
        given = values(request.headers, b"authorization")
        if len(given) > 1:
            raise BadRequest("more than one Authorization header")
        scheme, _, token = (given[0] if given else b"").partition(b" ")
        return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else None

    async def _verify(self, token: str) -> Caller:
        if self._config.introspection is not None:
            return await self._introspect(token)
        kid = key_id(token, self.policy.algorithms)
        return verify(token, await self._keys.key(kid), self.policy, self._times.wall())

    async def _introspect(self, token: str) -> Caller:
        settings = self._config.introspection
        assert settings is not None
        digest, now = hashlib.sha256(token.encode("latin-1")).hexdigest(), self._times.wall()
        cached = self._introspected.get(digest)
        if cached is not None and cached[0] > now:
            return cached[1]
        secret = settings.client_secret_file.read_text("ascii").strip()
        answer = await self._fetcher.post_form(settings.url, {"token": token}, (settings.client_id, secret))
        claims = _object(answer)
        if claims.get("active") is not True:
            raise TokenRefused("not active")
        caller = judge_claims({"iss": self.policy.issuer, **claims}, self.policy, now)
        self._introspected[digest] = (min(now + settings.cache.total_seconds(), caller.expires_at), caller)
        if len(self._introspected) > MAX_INTROSPECTED:
            self._introspected.popitem(last=False)
        return caller

    async def _fetch_keys(self) -> bytes:
        url = self._config.jwks_uri or await self._discover_jwks()
        return await self._fetcher.get(url)

    async def _discover_jwks(self) -> str:
        for url in _metadata_urls(self.policy.issuer):
            try:
                document = _object(await self._fetcher.get(url))
            except FetchFailed:
                continue
            found = document.get("jwks_uri")
            if document.get("issuer") == self.policy.issuer and isinstance(found, str) and found.startswith("https://"):
                return found
        raise FetchFailed("the authorization server publishes no usable metadata")

    def _metadata(self) -> Reply:
        document: dict[str, Any] = {
            "resource": self.resource,
            "authorization_servers": list(self._config.authorization_servers),
            "bearer_methods_supported": ["header"],
        }
        if self._config.required_scopes or self._config.tool_scopes:
            scopes = [*self._config.required_scopes, *(s for group in self._config.tool_scopes.values() for s in group)]
            document["scopes_supported"] = list(dict.fromkeys(scopes))
        return _json_reply(200, json.dumps(document).encode(), *_CORS, (b"Cache-Control", b"max-age=300"))

    def _challenge(self, status: int, error: str | None, scopes: tuple[str, ...] | None = None) -> Reply:
        wanted = scopes or self._config.required_scopes
        parts = [f'resource_metadata="{self._prm_url}"']
        if error is not None:
            parts.append(f'error="{error}"')
        if wanted:
            parts.append(f'scope="{" ".join(wanted)}"')
        description = "The access token does not open this resource" if error else "An access token is required"
        body = json.dumps({"error": error or "unauthorized", "error_description": description}).encode()
        challenge: Header = (b"WWW-Authenticate", f"Bearer {', '.join(parts)}".encode("latin-1"))
        reply = _json_reply(status, body, challenge, (b"Cache-Control", b"no-store"))
        return Reply(reply.status, reply.headers, reply.body, error or "unauthorized")


def named_among(header: Header, names: Collection[bytes]) -> bool:
    """Whether a header line has one of these names (lower case). CGI and its heirs read `_` and `-` as the same."""
    name = header[0].lower()
    return name in names or (b"_" in name and any(name.replace(b"_", b"-") == n.replace(b"_", b"-") for n in names))


class SessionNotYours(QanatError):
    """A session id presented by somebody other than the one who opened the session."""

    code = "session_not_found"
    status = 404


def _principal(caller: Caller) -> tuple[str, str, str | None]:
    return caller.issuer, caller.subject, caller.client_id


def _metadata_urls(issuer: str) -> list[str]:
    """Where an authorization server's metadata may be (RFC 8414 3.1, OpenID Connect Discovery 4)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return [
        f"{origin}{AS_METADATA_PATH}{path}",
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ]


def _object(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise FetchFailed("the authorization server answered no JSON object")
    return document


def _json_reply(status: int, body: bytes, *headers: Header) -> Reply:
    fixed: tuple[Header, ...] = (
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Server", b"mcp-proxy"),
    )
    return Reply(status, (*fixed, *headers), body)


def _session_not_found() -> Reply:
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": -32001, "message": "Session not found"}}
    reply = _json_reply(404, json.dumps(body).encode())
    return Reply(404, reply.headers, reply.body, "session_not_found")
