"""The token exchange: an identity token becomes an access token, or nothing is said of why not.

Every denial looks the same to the client; the reason goes to the authentication history.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.assertions import (
    SKEW,
    Assertion,
    Denied,
    check_algorithm,
    check_claims,
    check_match,
    check_signature,
    parse_assertion,
    summary,
)
from qanat.control.conditions import Conditions
from qanat.control.errors import AuthenticationFailed, RateLimited
from qanat.control.nouns import ExchangedToken
from qanat.control.operations.authentication import (
    ORG_ADMIN,
    ORG_MANAGE_TUNNELS,
    default_workspace,
    digest,
    is_member,
)
from qanat.control.operations.context import Context
from qanat.control.operations.key_sets import KeySets
from qanat.control.operations.rules import enabled_workspaces
from qanat.control.store.database import insert_new
from qanat.control.store.tables import (
    AccessTokenRow,
    AuthenticationEventRow,
    IssuerRow,
    RuleRow,
    ServiceAccountRow,
    UsedAssertionRow,
    WorkspaceRow,
)

DENIED = "Authentication failed"
MIN_LIFETIME = 60


@dataclass(frozen=True)
class ExchangeRequest:
    """What a client sent, well-formed, and from where."""

    assertion: str = field(repr=False)
    rule_id: str
    organization_id: str
    service_account_id: str | None = None
    workspace_id: str | None = None
    address: str = ""
    request_id: str = ""


@dataclass
class _Attempt:
    """What is known so far, for the history."""

    request: ExchangeRequest
    rule: RuleRow
    issuer: IssuerRow
    account: ServiceAccountRow
    default_workspace_id: str
    assertion: Assertion | None = None
    workspace_id: str | None = None
    expires: float = 0


class Exchange:
    """Exchanges identity tokens."""

    def __init__(self, context: Context, key_sets: KeySets, conditions: Conditions) -> None:
        self._context, self._key_sets, self._conditions = context, key_sets, conditions

    async def exchange(self, request: ExchangeRequest, on_proven: Callable[[], None]) -> ExchangedToken:
        """Raises `AuthenticationFailed`, always the same one.

        `on_proven` is called once the caller is known to be whom the rule means, before anything is spent or minted;
        it may raise `RateLimited`.
        """
        attempt = await self._load(request)
        if attempt is None:
            raise AuthenticationFailed(DENIED)
        try:
            await self._verify(attempt)
            on_proven()
            return await self._mint(attempt)
        except Denied as denied:
            await self._record_denial(attempt, "denied", denied.reason)
            raise AuthenticationFailed(DENIED) from None
        except RateLimited:
            raise
        except Exception:
            await self._record_denial(attempt, "error", "internal")
            raise

    async def _load(self, request: ExchangeRequest) -> _Attempt | None:
        async with self._context.database.read() as session:
            rule = await session.get(RuleRow, request.rule_id)
            if rule is None or rule.organization_id != request.organization_id:
                return None
            return _Attempt(
                request=request,
                rule=rule,
                issuer=await session.get_one(IssuerRow, rule.issuer_id),
                account=await session.get_one(ServiceAccountRow, rule.service_account_id),
                default_workspace_id=await default_workspace(session, rule.organization_id),
            )

    async def _verify(self, attempt: _Attempt) -> None:
        """The documented order of checks; the first that fails names the reason."""
        _check_alive(attempt)
        assertion = attempt.assertion = parse_assertion(attempt.request.assertion)
        check_algorithm(assertion)
        check_signature(assertion, await self._key_sets.key_for(attempt.issuer, assertion))
        await self._look_again(attempt)
        rule, issuer = attempt.rule, attempt.issuer
        now = self._context.now()
        attempt.expires = check_claims(assertion.claims, issuer.issuer_url, issuer.max_jwt_lifetime_seconds, now)
        check_match(rule.match, assertion.claims, self.default_audiences())
        condition = rule.match.get("condition")
        if condition is not None and not await self._conditions.holds(condition, assertion.claims):
            raise Denied("match_condition")
        async with self._context.database.read() as session:
            attempt.workspace_id = await self._workspace(session, attempt)
        if ORG_ADMIN in rule.oauth_scope.split() and attempt.account.organization_role != "admin":
            raise Denied("role_insufficient")

    async def _look_again(self, attempt: _Attempt) -> None:
        """Keys can take twenty seconds to come: what was archived or narrowed meanwhile counts."""
        now = await self._load(attempt.request)
        assert now is not None, "rules are archived, never deleted"
        attempt.rule, attempt.issuer, attempt.account = now.rule, now.issuer, now.account
        _check_alive(attempt)

    def default_audiences(self) -> tuple[str, ...]:
        """Who an assertion must be meant for when the rule does not say."""
        configured = self._context.config.federation.default_audiences
        if configured is not None:
            return configured
        return (self._context.public_url, urlsplit(self._context.public_url).hostname or "")

    async def _workspace(self, session: AsyncSession, attempt: _Attempt) -> str | None:
        rule, asked = attempt.rule, attempt.request.workspace_id
        if set(rule.oauth_scope.split()) <= {ORG_ADMIN, ORG_MANAGE_TUNNELS}:
            return None
        if asked == "default":
            asked = attempt.default_workspace_id
        enabled = await enabled_workspaces(session, rule.id)
        chosen = _choose_workspace(rule, enabled, asked, attempt.default_workspace_id)
        attempt.workspace_id = chosen
        row = await session.get(WorkspaceRow, chosen)
        if row is None or row.organization_id != rule.organization_id:
            raise Denied("workspace_not_enabled")
        if row.archived_at is not None:
            raise Denied("workspace_archived")
        if chosen != attempt.default_workspace_id and not await is_member(session, chosen, attempt.account.id):
            raise Denied("service_account_not_member")
        return chosen

    async def _mint(self, attempt: _Attempt) -> ExchangedToken:
        context, rule = self._context, attempt.rule
        assert attempt.assertion is not None
        now, claims = context.now(), attempt.assertion.claims
        lifetime = token_lifetime(rule.token_lifetime_seconds, attempt.expires - now.timestamp())
        random = base64.urlsafe_b64encode(context.random_bytes(32)).rstrip(b"=").decode()
        value = context.config.access_token_prefix + random
        async with context.database.write() as session:
            await self._spend(session, attempt)
            row = AccessTokenRow(
                sha256=digest(value),
                id=context.new_id("oat"),
                kind="access_token",
                name=rule.name,
                organization_id=rule.organization_id,
                workspace_id=attempt.workspace_id,
                subject=attempt.account.id,
                service_account_id=attempt.account.id,
                rule_id=rule.id,
                scope=rule.oauth_scope,
                assertion={name: str(claims[name])[:256] for name in ("iss", "sub", "jti") if name in claims},
                created_at=now,
                expires_at=now + timedelta(seconds=lifetime),
            )
            session.add(row)
            self._record(session, attempt, "success", None, row.id)
        return ExchangedToken(access_token=SecretStr(value), expires_in=lifetime, scope=rule.oauth_scope)

    async def _spend(self, session: AsyncSession, attempt: _Attempt) -> None:
        """Last of all checks: official clients send the same assertion again after a denial."""
        assert attempt.assertion is not None
        jti = attempt.assertion.claims.get("jti")
        if not attempt.issuer.check_jti or jti is None:
            return
        until = datetime.fromtimestamp(attempt.expires + SKEW, UTC)
        jti_sha256 = hashlib.sha256(str(jti).encode(errors="surrogatepass")).hexdigest()
        key = {"issuer_id": attempt.issuer.id, "jti_sha256": jti_sha256}
        if not await insert_new(session, UsedAssertionRow, **key, expires_at=until):
            raise Denied("jti_replayed")

    async def _record_denial(self, attempt: _Attempt, outcome: str, reason: str) -> None:
        async with self._context.database.write() as session:
            self._record(session, attempt, outcome, reason, None)

    def _record(
        self, session: AsyncSession, attempt: _Attempt, outcome: str, reason: str | None, token_id: str | None
    ) -> None:
        session.add(
            AuthenticationEventRow(
                time=self._context.now(),
                organization_id=attempt.rule.organization_id,
                request_id=attempt.request.request_id,
                address=attempt.request.address,
                rule_id=attempt.rule.id,
                issuer_id=attempt.issuer.id,
                service_account_id=attempt.account.id,
                workspace_id=attempt.workspace_id,
                outcome=outcome,
                reason=reason,
                claims=summary(attempt.assertion),
                token_id=token_id,
            )
        )


def _check_alive(attempt: _Attempt) -> None:
    for row, reason in (
        (attempt.rule, "rule_archived"),
        (attempt.issuer, "issuer_archived"),
        (attempt.account, "service_account_archived"),
    ):
        if row.archived_at is not None:
            raise Denied(reason)
    if attempt.request.service_account_id not in (None, attempt.account.id):
        raise Denied("service_account_mismatch")


def _choose_workspace(rule: RuleRow, enabled: list[str], asked: str | None, default: str) -> str:
    if asked is not None:
        if not rule.applies_to_all_workspaces and asked not in enabled:
            raise Denied("workspace_not_enabled")
        return asked
    if rule.applies_to_all_workspaces:
        return default
    if len(enabled) != 1:
        raise Denied("workspace_id_required")
    return enabled[0]


def token_lifetime(rule_seconds: int, assertion_seconds_left: float) -> int:
    """Seconds a minted token lives: what the rule says, but at most twice what the assertion had left."""
    return max(MIN_LIFETIME, min(rule_seconds, int(2 * assertion_seconds_left)))
