"""What every operation stands on: the store, time, randomness, limits; and who is asking."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.clock import Clock, SystemClock
from qanat.control.config import ControlConfig
from qanat.control.fetching import Resolve, resolve
from qanat.control.operations.keyring import load_data_keys
from qanat.control.store.database import Database
from qanat.control.store.tables import AuditRow, ChangeRow, CounterRow, OrganizationRow, TunnelRow
from qanat.control.store.vault import Vault
from qanat.ids import make_id

LABEL_FIRST = "abcdefghijklmnopqrstuvwxyz"
LABEL_ALPHABET = LABEL_FIRST + "0123456789"
LABEL_LENGTH = 8


def make_label() -> str:
    """A random first label of a tunnel domain: 8 letters and digits, a letter first."""
    return secrets.choice(LABEL_FIRST) + "".join(secrets.choice(LABEL_ALPHABET) for _ in range(LABEL_LENGTH - 1))


@dataclass(frozen=True)
class Actor:
    """Who asks, and how the trail will name them."""

    id: str
    kind: str
    """`access_token`, `tunnels_api_key`, `bootstrap`, `session`, `api_key`, `local` (on the server itself)."""
    organization_id: str
    workspace_id: str | None = None
    scopes: frozenset[str] = frozenset()
    credential_id: str = ""
    address: str = ""
    request_id: str = ""

    @property
    def interactive(self) -> bool:
        """Whether a person (or the bootstrap credential, which stands for one) is acting."""
        return self.kind in ("bootstrap", "session", "local")


@dataclass
class Context:
    """Shared by all operations of one process."""

    config: ControlConfig
    database: Database
    vault: Vault
    cursor_key: bytes = field(default=b"", repr=False)
    public_url: str = ""
    clock: Clock = field(default_factory=SystemClock)
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    make_label: Callable[[], str] = make_label
    resolve: Resolve = resolve
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, whenever this process commits a change the data plane must hear of."""

    def new_id(self, prefix: str) -> str:
        return make_id(prefix, self.random_bytes(16))

    def now(self) -> datetime:
        return self.clock.now()

    async def open(self, sealed: bytes, context: str) -> bytes:
        """A sealed value in clear. Another process may have rotated keys meanwhile: then they are loaded again."""
        if not self.vault.knows(sealed):
            async with self.database.read() as session:
                await load_data_keys(session, self.vault, self.config.master_key_paths)
        return self.vault.open(sealed, context)

    def wake_followers(self) -> None:
        """Call after a commit that recorded a change."""
        self.changed.set()
        self.changed = asyncio.Event()


async def lock_organization(session: AsyncSession, organization_id: str) -> OrganizationRow:
    """Serialize changes within an organization until commit: caps and names are checked under this lock."""
    query = select(OrganizationRow).where(OrganizationRow.id == organization_id).with_for_update()
    return (await session.execute(query)).scalar_one()


def audit(
    session: AsyncSession,
    context: Context,
    actor: Actor,
    action: str,
    target_id: str,
    *,
    workspace_id: str | None = None,
    reason: str | None = None,
    **details: object,
) -> None:
    """Write the trail of a change, in the change's own transaction."""
    session.add(
        AuditRow(
            time=context.now(),
            organization_id=actor.organization_id,
            workspace_id=workspace_id or actor.workspace_id,
            actor_id=actor.id,
            actor_kind=actor.kind,
            address=actor.address,
            request_id=actor.request_id,
            action=action,
            target_id=target_id,
            reason=reason,
            details=details,
        )
    )


async def record_change(session: AsyncSession, context: Context, tunnel: TunnelRow) -> None:
    """Tell the data plane, once this commits, to forget what it knows of a tunnel."""
    # The counter's row lock is held until commit: a follower can never see cursor 8 before 7.
    bump = update(CounterRow).where(CounterRow.name == "changes").values(value=CounterRow.value + 1)
    cursor = (await session.execute(bump.returning(CounterRow.value))).scalar_one()
    session.add(
        ChangeRow(cursor=cursor, time=context.now(), tunnel_id=tunnel.id, tunnel_uuid=tunnel.uuid, domain=tunnel.domain)
    )
