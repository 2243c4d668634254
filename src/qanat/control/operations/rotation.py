"""Rotating the master key: a new master key, a new data key, and every secret sealed again under it.

Running processes need not stop: old data keys stay, wrapped by the new master key, and a process that meets a value
sealed under a key it does not know loads the keys again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.operations.context import Actor, Context, audit
from qanat.control.operations.keyring import (
    load_data_keys,
    new_data_key,
    read_master_keys,
    write_master_keys,
)
from qanat.control.store.tables import (
    CertificateRow,
    ConsoleSessionRow,
    DataKeyRow,
    IssuerRow,
    SealedRow,
    TunnelRow,
)
from qanat.control.store.vault import KEY_SIZE, Key, wrap
from qanat.errors import ConfigInvalid

BATCH = 500


@dataclass(frozen=True)
class _Column:
    """A sealed column, its table's key, and the context its values are bound to."""

    table: type[Any]
    key: str
    name: str
    context: Callable[[str], str]


SEALED = (
    _Column(TunnelRow, "id", "secret_sealed", "tunnel {}".format),
    _Column(CertificateRow, "id", "pem_sealed", "certificate {}".format),
    _Column(IssuerRow, "id", "ca_sealed", "issuer {}".format),
    _Column(SealedRow, "name", "value_sealed", "sealed {}".format),
    _Column(ConsoleSessionRow, "id", "id_token_sealed", "id token {}".format),
)


async def rotate_master_key(context: Context, organization_id: str) -> tuple[str, int]:
    """Returns the new master key's id and how many values were sealed again. Raises `ConfigInvalid`.

    The new key is that of `next_master_key_file`, which some other hand has put there and will put in the place of
    `master_key_file`; without that setting a new one is made and written.
    """
    config = context.config
    if config.next_master_key_file is not None:
        new = _read_next(config.master_key_path, config.next_master_key_file)
        return new.id, await _rotate(context, organization_id, new)
    path = config.master_key_path
    old, new = read_master_keys(path), Key(context.random_bytes(KEY_SIZE))
    try:
        write_master_keys(path, [new, *old])  # whichever of the two steps is reached last, the file opens the database
    except OSError as error:
        hint = "where it cannot be, put a new key into another file and set next_master_key_file"
        raise ConfigInvalid([f"master_key_file: {path} cannot be written ({error.strerror}); {hint}"]) from None
    count = await _rotate(context, organization_id, new)
    write_master_keys(path, [new])
    return new.id, count


def _read_next(path: Path, next_path: Path) -> Key:
    new = read_master_keys(next_path)[0]
    if new.id in {key.id for key in read_master_keys(path)}:
        raise ConfigInvalid([f"next_master_key_file: {next_path} holds a key that master_key_file has already"])
    return new


async def _rotate(context: Context, organization_id: str, new: Key) -> int:
    """Wrap every data key by `new`, and seal everything under one more; all of it or nothing."""
    async with context.database.write() as session:
        await load_data_keys(session, context.vault, context.config.master_key_paths)
        await _rewrap(session, context, new)
        new_data_key(session, context.vault, new, context.now())
        count = 0
        for column in SEALED:
            count += await _reseal(session, context, column)
        actor = Actor(id="local", kind="local", organization_id=organization_id)
        audit(session, context, actor, "master_key.rotate", new.id, sealed_again=count)
    return count


async def _rewrap(session: AsyncSession, context: Context, master: Key) -> None:
    for row in (await session.scalars(select(DataKeyRow))).all():
        row.master_id = master.id
        row.wrapped = wrap(master, context.vault.keys[row.id], context.random_bytes)


async def _reseal(session: AsyncSession, context: Context, column: _Column) -> int:
    """In batches by key, so that a large table need not fit into memory."""
    key, last, count = getattr(column.table, column.key), "", 0
    while True:
        query = select(column.table).where(key > last).order_by(key).limit(BATCH).with_for_update()
        rows = (await session.scalars(query)).all()
        for row in rows:
            last = getattr(row, column.key)
            sealed, bound = getattr(row, column.name), column.context(last)
            if sealed is not None:
                setattr(row, column.name, context.vault.seal(context.vault.open(sealed, bound), bound))
                count += 1
        await session.flush()
        session.expunge_all()
        if len(rows) < BATCH:
            return count
