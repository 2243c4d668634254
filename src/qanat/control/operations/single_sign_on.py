"""Signing in at an OpenID provider: from the first redirect to a session of the console.

What the provider publishes is kept for 15 minutes, and believed for a day while it does not answer. A sign-in that is
under way is kept by the browser, sealed: any process of the control plane can finish it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr
from sqlalchemy import select

from qanat.control.assertions import Denied, usable_keys
from qanat.control.config import SingleSignOn
from qanat.control.errors import MasterKeyMissing, NotFound
from qanat.control.fetching import Fetcher, FetchFailed
from qanat.control.openid import (
    Attempt,
    NoRole,
    Person,
    Provider,
    ProviderUnavailable,
    SignInFailed,
    authorization_url,
    check_domain,
    is_complete,
    judge_id_token,
    parse_provider,
    read_answer,
    read_person,
    refusal,
    role_of,
    shorten,
    stale,
    with_query,
)
from qanat.control.operations.console_sessions import ConsoleSessions, Opening, Role
from qanat.control.operations.context import Actor, Context, audit
from qanat.control.store.tables import OrganizationRow
from qanat.errors import ConfigInvalid
from qanat.logger import get_logger

FRESH, BELIEVED = 15 * 60.0, 24 * 3600.0
UNKNOWN_KEY_INTERVAL, FAILURE_INTERVAL = 60.0, 5.0
ATTEMPT_SECONDS = 600
AT_ONCE = 32
"""Sign-ins that wait for the provider at the same time."""
MAX_ID_TOKEN = 6 * 1024
"""Longer ones are not kept: a URL with them would be too long for signing out."""
CONTEXT = "console sign-in"
log = get_logger("qanat.control")


@dataclass(frozen=True, repr=False)
class Begun:
    """Where to send a browser, and what it must keep until it comes back with `state`."""

    url: str
    state: str
    kept: str


@dataclass(frozen=True)
class SignedIn:
    """A session that single sign-on opened, and where its browser wanted to go."""

    cookie: SecretStr
    return_to: str


@dataclass(frozen=True)
class _Known:
    provider: Provider
    keys: list[dict[str, Any]]
    at: float


class SingleSignOns:
    """Begins and finishes sign-ins, for as long as `console.single_sign_on` is configured."""

    def __init__(self, context: Context, sessions: ConsoleSessions) -> None:
        self._context, self._sessions = context, sessions
        self.config = context.config.console.single_sign_on
        self._lock, self._gate = asyncio.Lock(), asyncio.Semaphore(AT_ONCE)
        self._known: _Known | None = None
        self._failed: tuple[float, ProviderUnavailable] | None = None
        if self.config is not None:
            self._fetcher = Fetcher(self.config.fetch_policy, context.resolve)
            self._ca_pem: str | None = None

    def load_files(self) -> None:
        """Read what is configured as files, before anybody signs in. Raises `ConfigInvalid`."""
        if self.config is not None:
            self._ca_pem = _read(self.config.ca_file, "ca_file") if self.config.ca_file else None
            self._secret(self.config)

    @property
    def redirect_uri(self) -> str:
        """What the provider must know this console by."""
        return f"{self._context.public_url}/console/sign-in/callback"

    @property
    def _sso(self) -> SingleSignOn:
        if self.config is None:
            raise NotFound("single sign-on")
        return self.config

    async def begin(self, return_to: str) -> Begun:
        """Begin a sign-in. Raises `SignInFailed`, `NotFound`."""
        sso, known = self._sso, await self._load()
        state, nonce, verifier = (_text(self._context.random_bytes(32)) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, return_to, self._context.now().timestamp() + ATTEMPT_SECONDS)
        sealed = _text(self._context.vault.seal(attempt.to_json(), CONTEXT))
        return Begun(authorization_url(known.provider, sso, attempt, self.redirect_uri), state, sealed)

    async def finish(self, kept: str, answer: Mapping[str, str], address: str, request_id: str) -> SignedIn:
        """Open a session for who comes back from the provider. Raises `SignInFailed`, `NotFound`."""
        sso = self._sso
        try:
            attempt, known = await self._open(kept), await self._load()
            code = read_answer(answer, attempt, known.provider, self._context.now().timestamp())
            async with self._gate:
                tokens = await self._redeem(sso, known.provider, code, attempt)
                claims = await self._judge(sso, tokens, attempt)
                person = await self._person(sso, known.provider, claims, tokens)
            check_domain(person, sso)
            role: Role = "manager" if role_of(person, sso) == "manager" else "viewer"
        except SignInFailed as error:
            log.warn("sign-in refused", cause=error.cause, request_id=request_id, address=address)
            if isinstance(error, NoRole):
                await self._record_refusal(sso, error, address, request_id)
            raise
        id_token = tokens["id_token"] if len(tokens["id_token"]) <= MAX_ID_TOKEN else ""
        opening = Opening(issuer=sso.issuer, subject=person.subject, id_token=id_token)
        organization = await self._organization(sso)
        cookie = await self._sessions.begin(organization, person.name, role, address, request_id, opening)
        return SignedIn(cookie, attempt.return_to)

    async def sign_out_url(self, id_token: str) -> str | None:
        """Where a person can sign out at the provider too (OpenID Connect RP-Initiated Logout 1.0); None: nowhere."""
        try:
            end = (await self._load(older_than=BELIEVED)).provider.end_session_endpoint
        except SignInFailed:
            return None
        if end is None:
            return None
        hint = {"id_token_hint": id_token} if id_token else {}
        back = f"{self._context.public_url}/console/sign-in"
        return with_query(end, client_id=self._sso.client_id, post_logout_redirect_uri=back, **hint)

    async def _open(self, kept: str) -> Attempt:
        try:
            sealed = base64.urlsafe_b64decode(kept.encode("ascii") + b"=" * (-len(kept) % 4))
            return Attempt.from_json(await self._context.open(sealed, CONTEXT))
        except (binascii.Error, ValueError, KeyError, TypeError, MasterKeyMissing):
            raise stale() from None

    async def _redeem(self, sso: SingleSignOn, provider: Provider, code: str, attempt: Attempt) -> dict[str, Any]:
        """The tokens for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        headers, secret = {}, self._secret_now(sso)
        if secret is None or provider.posts_secret:
            form |= {"client_id": sso.client_id} | ({"client_secret": secret.get_secret_value()} if secret else {})
        else:
            pair = f"{quote(sso.client_id, safe='')}:{quote(secret.get_secret_value(), safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        status, tokens = await self._ask(provider.token_endpoint, form, headers)
        if status != 200 or not isinstance(tokens.get("id_token"), str):
            reason = shorten(str(tokens.get("error", f"status {status}")))
            raise SignInFailed(
                f"The sign-in provider did not redeem the code: {reason}.",
                "invalid_client: look at single_sign_on.client_id and the client's secret. invalid_grant: start again. "
                f"Otherwise: does the provider know the redirect address {self.redirect_uri}?",
            )
        return tokens

    async def _judge(self, sso: SingleSignOn, tokens: dict[str, Any], attempt: Attempt) -> Mapping[str, Any]:
        """The ID token's claims; for a key that is not known the provider is asked again, once a minute."""
        known, now = await self._load(), self._context.now()
        try:
            try:
                return judge_id_token(tokens["id_token"], known.keys, sso, attempt.nonce, now)
            except Denied as denied:
                if denied.reason != "jwt_kid":
                    raise
            known = await self._load(older_than=UNKNOWN_KEY_INTERVAL)
            return judge_id_token(tokens["id_token"], known.keys, sso, attempt.nonce, now)
        except Denied as denied:
            raise refusal(denied) from None

    async def _person(
        self, sso: SingleSignOn, provider: Provider, claims: Mapping[str, Any], tokens: dict[str, Any]
    ) -> Person:
        """The person; what the ID token leaves out may be in the provider's userinfo."""
        more: Mapping[str, Any] = {}
        if not is_complete(claims, sso) and provider.userinfo_endpoint and isinstance(tokens.get("access_token"), str):
            headers = {"authorization": f"Bearer {tokens['access_token']}"}
            status, more = await self._ask(provider.userinfo_endpoint, None, headers)
            if status != 200 or more.get("sub") != claims["sub"]:
                raise SignInFailed("The sign-in provider's userinfo does not fit its ID token.", "Start again.")
        return read_person(claims, more, sso)

    async def _ask(
        self, url: str, form: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        try:
            return await self._fetcher.ask(url, self._ca_pem, form=form, headers=headers)
        except FetchFailed as error:
            raise _unavailable(error) from None

    async def _load(self, older_than: float = FRESH) -> _Known:
        """Provider and keys, asked for again when what is known is older than that."""
        async with self._lock:
            now = self._context.clock.monotonic()
            known = self._known
            if known is not None and now - known.at < older_than:
                return known
            if self._failed is None or now - self._failed[0] >= FAILURE_INTERVAL:
                try:
                    self._known, self._failed = await self._fetch(now), None
                    return self._known
                except ProviderUnavailable as error:
                    log.warn("sign-in provider not read", cause=error.cause)
                    self._failed = (self._context.clock.monotonic(), error)
            if known is not None and now - known.at < BELIEVED:
                return known
            raise self._failed[1]

    async def _fetch(self, now: float) -> _Known:
        issuer = self._sso.issuer
        try:
            url = issuer.removesuffix("/") + "/.well-known/openid-configuration"
            provider = parse_provider(await self._fetcher.fetch(url, self._ca_pem), issuer)
            for end in (provider.authorization_endpoint, provider.end_session_endpoint):
                if end is not None:
                    self._fetcher.parse(end)  # browsers are sent there
            keys = usable_keys(await self._fetcher.fetch_keys(provider.jwks_uri, self._ca_pem))
        except FetchFailed as error:
            raise _unavailable(error) from None
        return _Known(provider, keys, now)

    def _secret(self, sso: SingleSignOn) -> SecretStr | None:
        if sso.client_secret_file is None:
            return sso.client_secret
        return SecretStr(_read(sso.client_secret_file, "client_secret_file").strip())

    def _secret_now(self, sso: SingleSignOn) -> SecretStr | None:
        try:
            return self._secret(sso)
        except ConfigInvalid as error:
            raise ProviderUnavailable("This control plane cannot read its client secret.", str(error)) from None

    async def _organization(self, sso: SingleSignOn) -> str:
        query = select(OrganizationRow.id).order_by(OrganizationRow.created_at, OrganizationRow.id).limit(1)
        if sso.organization:
            query = query.where(OrganizationRow.id == sso.organization)
        async with self._context.database.read() as session:
            found = (await session.scalars(query)).one_or_none()
        if found is None:
            raise SignInFailed(
                "The organization that people shall sign in to does not exist.",
                "Set single_sign_on.organization to an organization's id, or leave it empty.",
            )
        return found

    async def _record_refusal(self, sso: SingleSignOn, error: NoRole, address: str, request_id: str) -> None:
        organization = await self._organization(sso)
        actor = Actor(error.who, "session", organization, address=address, request_id=request_id)
        async with self._context.database.write() as session:
            audit(session, self._context, actor, "console.sign_in_refused", actor.id, issuer=sso.issuer)


def _unavailable(error: FetchFailed) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"The sign-in provider cannot be used now: {error.reason}.",
        "Try again in a minute. If it stays so, an operator looks at single_sign_on.issuer, at its fetch_policy (where "
        "the provider may be) and its ca_file.",
    )


def _read(path: Any, key: str) -> str:
    """Raises `ConfigInvalid`."""
    try:
        return str(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not text"
        raise ConfigInvalid([f"console.single_sign_on.{key}: {path}: {problem}"]) from None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
