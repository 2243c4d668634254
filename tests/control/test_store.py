"""The store itself: the schema as migrated is the schema as declared, and sealed values open only where they belong."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from qanat.control.errors import Invalid, MasterKeyMissing, StoreUnavailable
from qanat.control.operations.pages import make_cursor, read_cursor
from qanat.control.server import open_database
from qanat.control.store import database as database_module
from qanat.control.store.database import Database
from qanat.control.store.tables import EPOCH, Table
from qanat.control.store.vault import Key, Vault, unwrap, wrap
from tests.support.control import control_config


def differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), Table.metadata))


async def test_the_migrations_make_what_the_tables_declare(
    new_database: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    config = control_config(tmp_path, **new_database())
    for _ in range(2):  # the second time there is nothing to do
        async with open_database(config) as database, database.engine.connect() as connection:
            assert await connection.run_sync(differences) == []


async def test_sqlite_waits_for_its_turn_and_survives_a_power_cut(tmp_path: Path) -> None:
    async with open_database(control_config(tmp_path)) as database, database.read() as session:
        assert (await session.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
        assert (await session.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        assert (await session.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1


async def test_nobody_waits_for_all_who_wait_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT", 0.5)
    database = Database(f"sqlite:///{tmp_path / 'control.db'}")

    async def write() -> None:
        async with database.write() as session:
            await session.connection()

    await write()
    other = sqlite3.connect(tmp_path / "control.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        async with asyncio.timeout(3):
            outcomes = await asyncio.gather(*(write() for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    finally:
        other.close()
        await database.close()


def test_a_sealed_value_opens_in_its_place_only() -> None:
    vault = Vault(secrets.token_bytes)
    old, new = Key(secrets.token_bytes(32)), Key(secrets.token_bytes(32))
    vault.keys, vault.current = {old.id: old, new.id: new}, old.id
    sealed = vault.seal(b"secret", "tunnel a")
    vault.current = new.id
    assert b"secret" not in sealed
    assert vault.seal(b"secret", "tunnel a") != sealed
    assert vault.open(sealed, "tunnel a") == b"secret"
    for moved, context in ((sealed, "tunnel b"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), "tunnel a")):
        with pytest.raises(ValueError, match="does not open"):
            vault.open(moved, context)
    assert not vault.knows(b"\0" * 40)


def test_a_data_key_opens_under_its_master_key_only() -> None:
    master, data = Key(secrets.token_bytes(32)), Key(secrets.token_bytes(32))
    wrapped = wrap(master, data, secrets.token_bytes)
    assert unwrap({master.id: master}, master.id, data.id, wrapped) == data
    with pytest.raises(MasterKeyMissing):
        unwrap({}, master.id, data.id, wrapped)
    with pytest.raises(ValueError, match="does not open"):
        unwrap({master.id: master}, master.id, master.id, wrapped)
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")


def test_a_cursor_of_another_key_or_filter_is_refused() -> None:
    cursor = make_cursor(b"k" * 32, EPOCH, "tnl_1", ["a"])
    assert read_cursor(b"k" * 32, cursor, ["a"]) == (EPOCH, "tnl_1")
    forged = cursor[:-2] + ("A" if cursor[-2] != "A" else "B") + cursor[-1]
    for key, text_, filters in ((b"x" * 32, cursor, ["a"]), (b"k" * 32, cursor, ["b"]), (b"k" * 32, forged, ["a"])):
        with pytest.raises(Invalid, match="page: invalid cursor"):
            read_cursor(key, text_, filters)
