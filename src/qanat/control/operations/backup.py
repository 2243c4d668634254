"""Backup and restore: every row of a consistent snapshot as gzipped JSON lines, the same for both databases.

Secrets stay sealed in it, so a backup is worth nothing without the master key file, which it does not hold.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, LargeBinary, Table, delete, func, insert, select, text, update

from qanat.control.operations.keyring import load_data_keys
from qanat.control.store import tables
from qanat.control.store.database import Database
from qanat.control.store.vault import Vault
from qanat.errors import QanatError

FORMAT = "qanat control backup 1"
BATCH = 500
CURSOR_LEAP = 1_000_000
"""How far a restore moves the cursor of changes: every follower then knows it must forget everything."""


@dataclass(eq=False)
class BackupUnusable(QanatError):
    """A backup cannot be restored."""

    code = "backup_unusable"
    reason: str

    def __str__(self) -> str:
        return self.reason


async def back_up(database: Database, file: IO[bytes]) -> int:
    """Write every row of one snapshot. Returns how many."""
    async with database.reader.connect() as connection:
        if not database.is_sqlite:
            await connection.execution_options(isolation_level="REPEATABLE READ")
        return await connection.run_sync(_write_rows, file)


def _write_rows(connection: Connection, file: IO[bytes]) -> int:
    count = 0
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as out:
        revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        out.write(_line({"format": FORMAT, "revision": revision}))
        for table in tables.Table.metadata.sorted_tables:
            for row in connection.execute(select(table)).yield_per(BATCH):
                out.write(_line({"table": table.name, "row": _encode(table, row._mapping)}))
                count += 1
        out.write(_line({"end": count}))
    return count


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _encode(table: Table, row: Any) -> dict[str, Any]:
    values = {}
    for column in table.columns:
        value = row[column]
        if isinstance(column.type, tables.Moment):
            value = None if value is None else (value - tables.EPOCH) // tables.MICROSECOND
        elif isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        values[column.name] = value
    return values


def _decode(table: Table, values: dict[str, Any]) -> dict[str, Any]:
    decoded = {}
    for name, value in values.items():
        kind = table.columns[name].type
        if value is not None and isinstance(kind, tables.Moment):
            value = tables.EPOCH + value * tables.MICROSECOND
        elif value is not None and isinstance(kind, LargeBinary):
            value = base64.b64decode(value)
        decoded[name] = value
    return decoded


async def restore(database: Database, file: IO[bytes], master_key_paths: Sequence[Path], vault: Vault) -> int:
    """Put a backup into an empty, migrated database: all of it or nothing. Raises `BackupUnusable`."""
    async with database.write() as session:
        connection = await session.connection()
        count = await connection.run_sync(_read_rows, file)
        await load_data_keys(session, vault, master_key_paths)  # without the master key it would be a heap of noise
        bump = update(tables.CounterRow).where(tables.CounterRow.name == "changes")
        await session.execute(bump.values(value=tables.CounterRow.value + CURSOR_LEAP))
        await session.execute(delete(tables.ChangeRow))
    return count


def _read_rows(connection: Connection, file: IO[bytes]) -> int:
    if connection.execute(select(func.count()).select_from(tables.OrganizationRow)).scalar_one():
        raise BackupUnusable("the database is not empty: restore into a fresh one")
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    count, ended = 0, False
    for table, rows in _batches(file, revision):
        if table is None:
            ended = rows == count
            break
        connection.execute(insert(table), rows)
        count += len(rows)
    if not ended:
        raise BackupUnusable("the backup is incomplete")
    if connection.dialect.name == "postgresql":
        _advance_sequences(connection)
    return count


def _batches(file: IO[bytes], revision: str) -> Iterator[tuple[Table | None, Any]]:
    """Tables and some of their rows, then None and the count the backup claims."""
    try:
        with gzip.GzipFile(fileobj=file) as lines:
            header = json.loads(lines.readline())
            if header.get("format") != FORMAT or header.get("revision") != revision:
                raise BackupUnusable("the backup is of another format or schema version")
            batch: list[dict[str, Any]] = []
            table: Table | None = None
            for line in lines:
                entry = json.loads(line)
                found = None if "end" in entry else tables.Table.metadata.tables[entry["table"]]
                if batch and (found is not table or len(batch) >= BATCH):
                    yield table, batch
                    batch = []
                if found is None:
                    yield None, entry["end"]
                    return
                table = found
                batch.append(_decode(table, entry["row"]))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise BackupUnusable("the file is no backup, or it is damaged") from error


def _advance_sequences(connection: Connection) -> None:
    for table in tables.Table.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            newest = select(func.max(column)).scalar_subquery()
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(select(func.setval(sequence, func.coalesce(newest, 1))))
