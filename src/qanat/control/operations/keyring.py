"""The master key file and the data keys it wraps: load, create, rotate.

The file holds one key per line, `<id> <base64 of 32 bytes>`, the current one first.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from qanat.control.store.tables import DataKeyRow
from qanat.control.store.vault import KEY_SIZE, Key, Vault, unwrap, wrap
from qanat.errors import ConfigInvalid


def read_master_keys(path: Path) -> list[Key]:
    """The keys in the file, current first. Raises `ConfigInvalid`."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
        keys = [Key(base64.b64decode(line.split()[-1], validate=True)) for line in lines if line.strip()]
    except (OSError, ValueError, binascii.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a master key file"
        raise ConfigInvalid([f"master_key_file: {path}: {reason}"]) from None
    if not keys:
        raise ConfigInvalid([f"master_key_file: {path}: holds no key"])
    return keys


def write_secret_file(path: Path, text: str, *, replace: bool = False) -> None:
    """Write `text` so that only the owner reads it, whole or not at all. Raises `FileExistsError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)  # unlike a rename, this fails when the file exists: two starts, one key
    finally:
        temporary.unlink(missing_ok=True)


def write_master_keys(path: Path, keys: list[Key], *, replace: bool = True) -> None:
    lines = [f"{key.id} {base64.b64encode(key.material).decode()}\n" for key in keys]
    write_secret_file(path, "".join(lines), replace=replace)


def ensure_master_key(path: Path) -> list[Key]:
    """The keys in the file; a missing file is created with a fresh one."""
    if not path.exists():
        try:
            write_master_keys(path, [Key(secrets.token_bytes(KEY_SIZE))], replace=False)
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigInvalid([f"master_key_file: {path}: {error.strerror}"]) from None
    return read_master_keys(path)


async def load_data_keys(session: AsyncSession, vault: Vault, paths: Sequence[Path]) -> bool:
    """Fill the vault from the database; False when there is no data key yet. Raises `MasterKeyMissing`."""
    masters = {key.id: key for path in paths for key in read_master_keys(path)}
    rows = (await session.scalars(select(DataKeyRow).order_by(DataKeyRow.created_at, DataKeyRow.id))).all()
    for row in rows:
        vault.keys[row.id] = unwrap(masters, row.master_id, row.id, row.wrapped)
        vault.current = row.id
    return bool(rows)


def new_data_key(session: AsyncSession, vault: Vault, master: Key, now: datetime) -> None:
    """Make a data key, the current one from now on."""
    key = Key(vault.random_bytes(KEY_SIZE))
    session.add(
        DataKeyRow(id=key.id, master_id=master.id, wrapped=wrap(master, key, vault.random_bytes), created_at=now)
    )
    vault.keys[key.id] = key
    vault.current = key.id
