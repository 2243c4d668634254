"""Credentials at rest: one SQLite file, each row sealed with a key of its organization.

Rows change by compare-and-set on a version, so that two gateways that refresh at once cannot overwrite each other.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qanat.errors import ConfigInvalid
from qanat.gateway.oauth.model import Credential

SCHEMA = """CREATE TABLE IF NOT EXISTS credentials (
  organization TEXT NOT NULL, workspace TEXT NOT NULL, vault TEXT NOT NULL, url TEXT NOT NULL,
  version INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (organization, workspace, vault, url))"""
GET = """SELECT version, sealed FROM credentials
  WHERE organization = ? AND workspace = ? AND vault = ? AND url = ?"""
PUT = """INSERT INTO credentials VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT (organization, workspace, vault, url)
  DO UPDATE SET sealed = excluded.sealed, version = version + 1"""
REPLACE = """UPDATE credentials SET sealed = ?, version = version + 1
  WHERE organization = ? AND workspace = ? AND vault = ? AND url = ? AND version = ?"""
DELETE = "DELETE FROM credentials WHERE organization = ? AND workspace = ? AND vault = ? AND url = ?"
LIST = "SELECT url FROM credentials WHERE organization = ? AND workspace = ? AND vault = ? ORDER BY url"
NONCE = 12


@dataclass(frozen=True, slots=True)
class Key:
    """Whose credential, and for which server."""

    organization: str
    workspace: str
    vault: str
    url: str

    @property
    def columns(self) -> tuple[str, str, str, str]:
        return (self.organization, self.workspace, self.vault, self.url)


@dataclass(frozen=True, slots=True)
class Stored:
    """A credential and the version it was read at."""

    credential: Credential
    version: int


class Store:
    """The file. SQLite runs in threads; its own lock orders writers."""

    def __init__(self, path: Path, master: bytes) -> None:
        self._path, self._master = path, master
        self._execute(SCHEMA)
        path.chmod(0o600)

    async def get(self, key: Key) -> Stored | None:
        """The credential, if there is one. Raises `ConfigInvalid` when the master key does not fit."""
        rows, _ = await asyncio.to_thread(self._execute, GET, key.columns)
        return Stored(self._open(key, rows[0][1]), rows[0][0]) if rows else None

    async def put(self, key: Key, credential: Credential) -> None:
        """Store a new credential, replacing any other."""
        await asyncio.to_thread(self._execute, PUT, (*key.columns, self._seal(key, credential)))

    async def replace(self, key: Key, credential: Credential, version: int) -> bool:
        """Store a changed credential, unless somebody else changed it since `version`."""
        parameters = (self._seal(key, credential), *key.columns, version)
        return (await asyncio.to_thread(self._execute, REPLACE, parameters))[1] == 1

    async def delete(self, key: Key) -> None:
        """Forget a credential."""
        await asyncio.to_thread(self._execute, DELETE, key.columns)

    async def urls(self, key: Key) -> list[str]:
        """The servers a vault has credentials for; the key's own URL does not count."""
        rows, _ = await asyncio.to_thread(self._execute, LIST, key.columns[:3])
        return [str(row[0]) for row in rows]

    def _execute(self, statement: str, parameters: tuple[object, ...] = ()) -> tuple[list[tuple[Any, ...]], int]:
        """The rows a statement gives, and how many it changed."""
        with closing(sqlite3.connect(self._path, timeout=10)) as database, database:
            cursor = database.execute(statement, parameters)
            return cursor.fetchall(), cursor.rowcount

    def _cipher(self, key: Key) -> AESGCM:
        info = b"qanat vault " + key.organization.encode()
        return AESGCM(HKDF(hashes.SHA256(), 32, None, info).derive(self._master))

    def _seal(self, key: Key, credential: Credential) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + self._cipher(key).encrypt(nonce, credential.model_dump_json().encode(), _bound(key))

    def _open(self, key: Key, sealed: bytes) -> Credential:
        try:
            plain = self._cipher(key).decrypt(sealed[:NONCE], sealed[NONCE:], _bound(key))
        except InvalidTag:
            raise ConfigInvalid(["oauth.key_file: does not fit the database"]) from None
        return Credential.model_validate_json(plain)


def _bound(key: Key) -> bytes:
    """What a sealed row is tied to: moved to another row it does not open."""
    return "\0".join(key.columns).encode()


def load_master_key(path: Path) -> bytes:
    """32 bytes in hex. Raises `ConfigInvalid`."""
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        raise ConfigInvalid([f"oauth.key_file: {path}: cannot be read as hex (openssl rand -hex 32)"]) from None
    if len(key) != 32:
        raise ConfigInvalid([f"oauth.key_file: {path}: must hold 32 bytes in hex"])
    return key
