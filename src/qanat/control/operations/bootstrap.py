"""The first start: schema, keys, the organization, its default workspace, and the operator's first credential."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.config import ControlConfig
from qanat.control.operations.authentication import SCOPES, digest
from qanat.control.operations.context import Actor, Context, audit
from qanat.control.operations.keyring import ensure_master_key, load_data_keys, new_data_key, write_secret_file
from qanat.control.store.database import Database, insert_new
from qanat.control.store.migrations import upgrade
from qanat.control.store.tables import AccessTokenRow, CounterRow, OrganizationRow, SealedRow, WorkspaceRow
from qanat.control.store.vault import Vault
from qanat.errors import ConfigInvalid
from qanat.logger import get_logger

MIN_CREDENTIAL = 32
DEFAULT_COLOR = "#6C5BB9"
log = get_logger("qanat.control")


@dataclass(frozen=True)
class Bootstrapped:
    """What the first start made, or a later one found."""

    organization_id: str
    default_workspace_id: str
    credential: SecretStr | None
    """None when the bootstrap credential is disabled."""


async def migrate(database: Database) -> None:
    """Bring the schema to the newest."""
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade)


async def bootstrap(context: Context) -> Bootstrapped:
    """Make whatever is missing. Safe to run on every start, and by two processes at once. Raises `ConfigInvalid`."""
    config = context.config
    masters = ensure_master_key(config.master_key_path)
    credential = _ensure_credential(config)
    async with context.database.write() as session:
        # Whoever inserts the counter first holds its lock: a second process waits here until the first has committed.
        await insert_new(session, CounterRow, name="changes", value=0)
        await session.execute(select(CounterRow).where(CounterRow.name == "changes").with_for_update())
        if not await load_data_keys(session, context.vault, config.master_key_paths):
            new_data_key(session, context.vault, masters[0], context.now())
        context.cursor_key = await _ensure_sealed(session, context.vault, "cursor")
        organization = await _ensure_organization(session, context)
        if credential is not None:
            await _ensure_credential_row(session, context, organization, credential)
    return Bootstrapped(organization.id, organization.default_workspace_id, credential)


def _ensure_credential(config: ControlConfig) -> SecretStr | None:
    if not config.bootstrap.enabled:
        return None
    path = config.bootstrap_path
    try:
        if not path.exists():
            value = config.access_token_prefix + secrets.token_urlsafe(32)
            write_secret_file(path, value + "\n")
        text = path.read_text(encoding="utf-8").strip()
    except FileExistsError:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid([f"bootstrap.credential_file: {path}: {getattr(error, 'strerror', 'not text')}"]) from None
    if len(text) < MIN_CREDENTIAL or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigInvalid([f"bootstrap.credential_file: {path}: must hold at least {MIN_CREDENTIAL} characters"])
    return SecretStr(text)


async def _ensure_sealed(session: AsyncSession, vault: Vault, name: str) -> bytes:
    row = await session.get(SealedRow, name)
    if row is not None:
        return vault.open(row.value_sealed, f"sealed {name}")
    value = vault.random_bytes(32)
    session.add(SealedRow(name=name, value_sealed=vault.seal(value, f"sealed {name}")))
    return value


async def _ensure_organization(session: AsyncSession, context: Context) -> OrganizationRow:
    query = select(OrganizationRow).order_by(OrganizationRow.created_at, OrganizationRow.id).limit(1)
    row = (await session.scalars(query)).first()
    if row is not None:
        return row
    return await add_organization(session, context, "default")


async def add_organization(session: AsyncSession, context: Context, name: str) -> OrganizationRow:
    """An organization and its default workspace."""
    now = context.now()
    id = str(uuid.UUID(bytes=context.random_bytes(16), version=4))
    row = OrganizationRow(id=id, name=name, default_workspace_id=context.new_id("wrkspc"), created_at=now)
    session.add(row)
    await session.flush()
    session.add(
        WorkspaceRow(
            id=row.default_workspace_id,
            organization_id=row.id,
            name="Default",
            display_color=DEFAULT_COLOR,
            tags={},
            created_at=now,
            archived_at=None,
        )
    )
    await session.flush()
    return row


async def _ensure_credential_row(
    session: AsyncSession, context: Context, organization: OrganizationRow, credential: SecretStr
) -> None:
    sha256, now = digest(credential.get_secret_value()), context.now()
    mine = (AccessTokenRow.kind == "bootstrap", AccessTokenRow.organization_id == organization.id)
    # Expired, not revoked: whoever puts an older one back into the file gets in again, unless a person revoked it.
    others = (*mine, AccessTokenRow.sha256 != sha256, AccessTokenRow.expires_at.is_(None))
    await session.execute(update(AccessTokenRow).where(*others).values(expires_at=now))
    this = (*mine, AccessTokenRow.sha256 == sha256)
    await session.execute(update(AccessTokenRow).where(*this).values(expires_at=None))
    token_id = context.new_id("oat")
    values: dict[str, object] = {
        "id": token_id,
        "kind": "bootstrap",
        "name": "bootstrap",
        "organization_id": organization.id,
        "subject": "user_bootstrap",
        "scope": " ".join(sorted(SCOPES)),
        "created_at": now,
    }
    if await insert_new(session, AccessTokenRow, sha256=sha256, **values):
        actor = Actor(id="local", kind="local", organization_id=organization.id)
        audit(session, context, actor, "bootstrap_credential.create", token_id)
    elif (await session.get_one(AccessTokenRow, sha256)).revoked_at is not None:
        log.warn("bootstrap credential is revoked", file=str(context.config.bootstrap_path))
