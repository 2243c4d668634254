"""Federation issuers: whom we believe, and where their keys come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.assertions import usable_keys
from qanat.control.errors import Conflict, Invalid, NotFound, PermissionDenied
from qanat.control.fetching import Fetcher, FetchFailed, parse_url
from qanat.control.nouns import Issuer, Page, PollStatus
from qanat.control.operations.authentication import DEVELOPER, INFERENCE
from qanat.control.operations.context import Actor, Context, audit, lock_organization
from qanat.control.operations.names import check_free_name
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.store.tables import IssuerRow, RuleRow
from qanat.control.tenants import check_pinned
from qanat.ids import is_well_formed
from qanat.pki.material import CertificateRefused, load_certificates

MAX_LIFETIME = 176_400
DEFAULT_LIFETIME = 3600
MAX_KEYS = 100


@dataclass(frozen=True)
class IssuerChange:
    """New values of an issuer; None leaves one as it is."""

    name: str | None = None
    issuer_url: str | None = None
    jwks: dict[str, Any] | None = None
    check_jti: bool | None = None
    max_jwt_lifetime_seconds: int | None = None
    resume_polling: bool = False


class Issuers:
    """What one can do with issuers."""

    def __init__(self, context: Context, fetcher: Fetcher) -> None:
        self._context, self._fetcher = context, fetcher

    async def create(self, actor: Actor, change: IssuerChange) -> Issuer:
        """Raises `Conflict` for a name in use, `Invalid` for a URL that may not be fetched."""
        context = self._context
        assert change.name is not None
        assert change.issuer_url is not None
        jwks = await self._check_source(change.issuer_url, change.jwks or {"type": "discovery"})
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            await check_free_name(session, IssuerRow, actor.organization_id, change.name)
            now = context.now()
            row = IssuerRow(
                id=context.new_id("fdis"),
                organization_id=actor.organization_id,
                name=change.name,
                issuer_url=change.issuer_url,
                check_jti=True if change.check_jti is None else change.check_jti,
                max_jwt_lifetime_seconds=change.max_jwt_lifetime_seconds or DEFAULT_LIFETIME,
                consecutive_failures=0,
                created_at=now,
                updated_at=now,
                created_by_actor_id=actor.id,
                updated_by_actor_id=actor.id,
            )
            self._set_source(row, jwks)
            session.add(row)
            audit(session, context, actor, "issuer.create", row.id, name=row.name, issuer_url=row.issuer_url)
        return await self._show(row)

    async def retrieve(self, actor: Actor, issuer_id: str) -> Issuer:
        """Raises `NotFound`."""
        async with self._context.database.read() as session:
            row = await find_issuer(session, actor, issuer_id)
        return await self._show(row)

    async def list_page(self, actor: Actor, request: PageRequest) -> Page[Issuer]:
        """Newest first."""
        query = select(IssuerRow).where(IssuerRow.organization_id == actor.organization_id)
        if not request.include_archived:
            query = query.where(IssuerRow.archived_at.is_(None))
        order = (IssuerRow.created_at, IssuerRow.id)
        filters = ["issuers", actor.organization_id, request.include_archived]
        async with self._context.database.read() as session:
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        return Page(data=[await self._show(row) for row in rows], next_page=next_page)

    async def update(self, actor: Actor, issuer_id: str, change: IssuerChange) -> Issuer:
        """Raises `Invalid` for an archived issuer, or a shared one whose rules pin no tenant; `Conflict`."""
        context = self._context
        async with context.database.read() as session:
            before = await find_issuer(session, actor, issuer_id)
        jwks = None
        if change.jwks is not None or change.issuer_url is not None:
            known = dict((await self._show(before)).jwks)
            jwks = await self._check_source(change.issuer_url or before.issuer_url, change.jwks or known)
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_issuer(session, actor, issuer_id)
            await self._check_may_touch(session, actor, row)
            if row.archived_at is not None:
                raise Invalid("", "issuer is archived")
            # Names were looked up in between: keys that somebody has replaced meanwhile must not come back.
            if jwks is not None and source_of(row) != source_of(before):
                raise Conflict("the issuer was changed by somebody else meanwhile; look at it and try again")
            if change.name is not None and change.name != row.name:
                await check_free_name(session, IssuerRow, actor.organization_id, change.name)
                row.name = change.name
            if change.issuer_url is not None:
                for rule in await live_rules(session, row.id):
                    check_pinned(change.issuer_url, rule.match, "issuer_url")
                row.issuer_url = change.issuer_url
            self._apply(row, change, jwks)
            row.updated_at, row.updated_by_actor_id = context.now(), actor.id
            audit(session, context, actor, "issuer.update", row.id, issuer_url=row.issuer_url)
        return await self._show(row)

    def _apply(self, row: IssuerRow, change: IssuerChange, jwks: dict[str, Any] | None) -> None:
        if jwks is not None:
            self._set_source(row, jwks)
        if change.check_jti is not None:
            row.check_jti = change.check_jti
        if change.max_jwt_lifetime_seconds is not None:
            row.max_jwt_lifetime_seconds = change.max_jwt_lifetime_seconds
        if change.resume_polling and row.jwks_polling_disabled_at is not None:
            row.jwks_polling_disabled_at, row.consecutive_failures = None, 0
            row.next_poll_at = self._context.now()

    async def archive(self, actor: Actor, issuer_id: str) -> Issuer:
        """For ever. Raises `Invalid` while a live rule references it."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            row = await find_issuer(session, actor, issuer_id)
            if row.archived_at is None:
                await self._check_may_touch(session, actor, row)
                if await live_rules(session, row.id):
                    raise Invalid("", "a live federation rule references this issuer; archive the rule first")
                row.archived_at, row.archived_by_actor_id = context.now(), actor.id
                row.next_poll_at = None
                audit(session, context, actor, "issuer.archive", row.id)
        return await self._show(row)

    async def _check_may_touch(self, session: AsyncSession, actor: Actor, row: IssuerRow) -> None:
        if actor.interactive:
            return
        for rule in await live_rules(session, row.id):
            if not set(rule.oauth_scope.split()) <= {DEVELOPER, INFERENCE}:
                raise PermissionDenied("this issuer backs a rule that only a person may manage")

    async def _check_source(self, issuer_url: str, jwks: dict[str, Any]) -> dict[str, Any]:
        """The key source with its keys cleaned. Raises `Invalid` naming the field."""
        _check(lambda: parse_url(issuer_url), "issuer_url")
        if jwks["type"] == "inline":
            keys = usable_keys(jwks["keys"])
            if not keys or len(jwks["keys"]) > MAX_KEYS:
                raise Invalid(
                    "jwks.keys", f"must hold 1 to {MAX_KEYS} keys, one of them RSA (2048 bits) or EC at least"
                )
            return {"type": "inline", "keys": keys}
        _check_ca(jwks.get("ca_cert_pem"))
        field, url = _dialled(issuer_url, jwks)
        try:
            await self._fetcher.check(url)
        except FetchFailed as error:
            raise Invalid(field, error.reason) from None
        return jwks

    def _set_source(self, row: IssuerRow, jwks: dict[str, Any]) -> None:
        ca_pem = jwks.get("ca_cert_pem")
        row.jwks = {name: value for name, value in jwks.items() if name != "ca_cert_pem"}
        row.ca_sealed = None if ca_pem is None else self._context.vault.seal(ca_pem.encode(), f"issuer {row.id}")
        row.cached_keys = row.cached_at = row.jwks_polling_disabled_at = None
        row.consecutive_failures = 0
        row.next_poll_at = None if jwks["type"] == "inline" else self._context.now()

    async def _show(self, row: IssuerRow) -> Issuer:
        jwks: dict[str, object] = dict(row.jwks)
        if jwks["type"] != "inline":
            jwks["ca_cert_pem"] = None if row.ca_sealed is None else await issuer_ca(self._context, row)
        if jwks["type"] == "discovery":
            jwks.setdefault("discovery_base", None)
        polling = PollStatus(
            consecutive_failures=row.consecutive_failures,
            last_fetched_at=row.last_fetched_at,
            next_poll_at=row.next_poll_at,
        )
        plain = {"jwks", "poll_status", "type"}
        values = {name: getattr(row, name) for name in Issuer.model_fields if name not in plain}
        return Issuer.model_validate(
            values | {"jwks": jwks, "poll_status": None if jwks["type"] == "inline" else polling}
        )


def _dialled(issuer_url: str, jwks: dict[str, Any]) -> tuple[str, str]:
    """The URL that will be fetched first, and the field it came from."""
    if jwks["type"] == "explicit_url":
        return "jwks.url", jwks["url"]
    if jwks.get("discovery_base") is not None:
        return "jwks.discovery_base", jwks["discovery_base"]
    return "issuer_url", issuer_url


def _check(parse: Any, field: str) -> None:
    try:
        parse()
    except FetchFailed as error:
        raise Invalid(field, error.reason) from None


def _check_ca(pem: str | None) -> None:
    if pem is None:
        return
    try:
        load_certificates(pem)
    except CertificateRefused as refusal:
        raise Invalid("jwks.ca_cert_pem", refusal.reason) from None
    if not pem.isascii():  # all that OpenSSL reads
        raise Invalid("jwks.ca_cert_pem", "must be ASCII")


def source_of(row: IssuerRow) -> tuple[object, ...]:
    """What decides whose keys are believed; it differs as soon as any of it was replaced."""
    return row.issuer_url, row.jwks, row.ca_sealed


async def issuer_ca(context: Context, row: IssuerRow) -> str | None:
    """The CA an issuer's endpoints are verified with; None for the system's."""
    return None if row.ca_sealed is None else (await context.open(row.ca_sealed, f"issuer {row.id}")).decode()


async def live_rules(session: AsyncSession, issuer_id: str) -> list[RuleRow]:
    query = select(RuleRow).where(RuleRow.issuer_id == issuer_id, RuleRow.archived_at.is_(None))
    return list((await session.scalars(query)).all())


async def find_issuer(session: AsyncSession, actor: Actor, issuer_id: str) -> IssuerRow:
    """Raises `NotFound`, also for another organization's."""
    row = await session.get(IssuerRow, issuer_id) if is_well_formed("fdis", issuer_id) else None
    if row is None or row.organization_id != actor.organization_id:
        raise NotFound("federation issuer")
    return row
