"""CA certificates registered on tunnels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.errors import CertificateLimitExceeded, Conflict, Invalid, NotFound
from qanat.control.nouns import Certificate, Page
from qanat.control.operations.context import Actor, Context, audit, lock_organization, record_change
from qanat.control.operations.pages import PageRequest, read_page
from qanat.control.operations.tunnels import find_live_tunnel, find_tunnel
from qanat.control.store.tables import CertificateRow
from qanat.ids import is_well_formed
from qanat.pki.judge import FIELD, judge_ca
from qanat.pki.material import NO_EXPIRY, CertificateRefused


class Certificates:
    """What one can do with the CA certificates of a tunnel."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, actor: Actor, tunnel_id: str, pem: object) -> Certificate:
        """Register a CA. Raises `Invalid`, `Conflict` (live already), `CertificateLimitExceeded`, `TunnelArchived`."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            tunnel = await find_live_tunnel(session, actor, tunnel_id)
            row = self._judge(tunnel.id, pem)
            live = await live_certificates(session, tunnel.id)
            if any(other.fingerprint == row.fingerprint for other in live):
                raise Conflict("this certificate is registered on the tunnel already")
            if len(live) >= context.config.limits.certificates_per_tunnel:
                raise CertificateLimitExceeded(context.config.limits.certificates_per_tunnel)
            if live:
                row.created_at = max(
                    row.created_at, max(other.created_at for other in live) + timedelta(microseconds=1)
                )
            session.add(row)
            audit(
                session, context, actor, "certificate.create", row.id,
                workspace_id=tunnel.workspace_id, tunnel_id=tunnel.id, fingerprint=row.fingerprint,
            )  # fmt: skip
            await record_change(session, context, tunnel)
        context.wake_followers()
        return show(row)

    async def retrieve(self, actor: Actor, tunnel_id: str, certificate_id: str) -> Certificate:
        """Raises `NotFound`, also for a certificate of another tunnel."""
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
            return show(await _find(session, tunnel_id, certificate_id))

    async def list_page(self, actor: Actor, tunnel_id: str, request: PageRequest) -> Page[Certificate]:
        """The tunnel's certificates, newest first."""
        query = select(CertificateRow).where(CertificateRow.tunnel_id == tunnel_id)
        if not request.include_archived:
            query = query.where(CertificateRow.archived_at.is_(None))
        order = (CertificateRow.created_at, CertificateRow.id)
        filters = ["certificates", tunnel_id, request.include_archived]
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
            rows, next_page = await read_page(session, self._context.cursor_key, query, order, request, filters)
        return Page(data=[show(row) for row in rows], next_page=next_page)

    async def list_all(self, actor: Actor, tunnel_id: str, *, include_archived: bool) -> Page[Certificate]:
        """All of them at once; for the deprecated surface."""
        query = select(CertificateRow).where(CertificateRow.tunnel_id == tunnel_id)
        if not include_archived:
            query = query.where(CertificateRow.archived_at.is_(None))
        async with self._context.database.read() as session:
            await find_tunnel(session, actor, tunnel_id)
            order = (CertificateRow.created_at.desc(), CertificateRow.id.desc())
            rows = (await session.scalars(query.order_by(*order))).all()
        return Page(data=[show(row) for row in rows], next_page=None)

    async def archive(self, actor: Actor, tunnel_id: str, certificate_id: str) -> Certificate:
        """Out of the trust set, for ever. Repeating changes nothing."""
        context = self._context
        async with context.database.write() as session:
            await lock_organization(session, actor.organization_id)
            tunnel = await find_tunnel(session, actor, tunnel_id)
            row = await _find(session, tunnel_id, certificate_id)
            if row.archived_at is not None:
                return show(row)
            row.archived_at = context.now()
            audit(
                session, context, actor, "certificate.archive", row.id,
                workspace_id=tunnel.workspace_id, tunnel_id=tunnel.id, fingerprint=row.fingerprint,
            )  # fmt: skip
            await record_change(session, context, tunnel)
        context.wake_followers()
        return show(row)

    def _judge(self, tunnel_id: str, pem: object) -> CertificateRow:
        now = self._context.now()
        try:
            certificate = judge_ca(pem, now)
        except CertificateRefused as refusal:
            raise Invalid(FIELD, refusal.reason.removeprefix(f"{FIELD}: ")) from None
        id, expires_at = self._context.new_id("tcrt"), certificate.not_valid_after_utc
        return CertificateRow(
            id=id,
            tunnel_id=tunnel_id,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            pem_sealed=self._context.vault.seal(certificate.public_bytes(Encoding.PEM), f"certificate {id}"),
            created_at=now,
            expires_at=None if expires_at == NO_EXPIRY else expires_at,
            archived_at=None,
        )


async def live_certificates(session: AsyncSession, tunnel_id: str) -> Sequence[CertificateRow]:
    """The tunnel's trust set, oldest first."""
    live = (CertificateRow.tunnel_id == tunnel_id, CertificateRow.archived_at.is_(None))
    return (await session.scalars(select(CertificateRow).where(*live).order_by(CertificateRow.created_at))).all()


async def _find(session: AsyncSession, tunnel_id: str, certificate_id: str) -> CertificateRow:
    row = await session.get(CertificateRow, certificate_id) if is_well_formed("tcrt", certificate_id) else None
    if row is None or row.tunnel_id != tunnel_id:
        raise NotFound("certificate")
    return row


def show(row: CertificateRow) -> Certificate:
    return Certificate(
        id=row.id,
        tunnel_id=row.tunnel_id,
        fingerprint=row.fingerprint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        archived_at=row.archived_at,
    )
