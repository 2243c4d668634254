"""Credentials and registered clients at rest: one SQLite file, each row sealed with a key of its organization.

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
from pydantic import TypeAdapter

from qanat.errors import ConfigInvalid
from qanat.gateway.oauth.model import Credential, OAuthClient

SCHEMA = """CREATE TABLE IF NOT EXISTS credentials (
  organization TEXT NOT NULL, workspace TEXT NOT NULL, vault TEXT NOT NULL, url TEXT NOT NULL,
  version INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (organization, workspace, vault, url))"""
CLIENTS = """CREATE TABLE IF NOT EXISTS clients (
  organization TEXT NOT NULL, workspace TEXT NOT NULL, issuer TEXT NOT NULL, redirect_uri TEXT NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (organization, workspace, issuer, redirect_uri))"""
GET = """SELECT version, sealed FROM credentials
  WHERE organization = ? AND workspace = ? AND vault = ? AND url = ?"""
PUT = """INSERT INTO credentials VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT (organization, workspace, vault, url)
  DO UPDATE SET sealed = excluded.sealed, version = version + 1"""
REPLACE = """UPDATE credentials SET sealed = ?, version = version + 1
  WHERE organization = ? AND workspace = ? AND vault = ? AND url = ? AND version = ?"""
DELETE = "DELETE FROM credentials WHERE organization = ? AND workspace = ? AND vault = ? AND url = ?"
LIST = "SELECT url FROM credentials WHERE organization = ? AND workspace = ? AND vault = ? ORDER BY url"
GET_CLIENT = """SELECT sealed FROM clients
  WHERE organization = ? AND workspace = ? AND issuer = ? AND redirect_uri = ?"""
PUT_CLIENT = "INSERT OR REPLACE INTO clients VALUES (?, ?, ?, ?, ?)"
DELETE_CLIENT = "DELETE FROM clients WHERE organization = ? AND workspace = ? AND issuer = ? AND redirect_uri = ?"
NONCE = 12
_CLIENT = TypeAdapter(OAuthClient)


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
class Registration:
    """Where a client of ours is registered: a change of any part means to register again."""

    organization: str
    workspace: str
    issuer: str
    redirect_uri: str

    @property
    def columns(self) -> tuple[str, str, str, str]:
        return (self.organization, self.workspace, self.issuer, self.redirect_uri)


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
        self._execute(CLIENTS)
        path.chmod(0o600)

    async def get(self, key: Key) -> Stored | None:
        """The credential, if there is one. Raises `ConfigInvalid` when the master key does not fit."""
        rows, _ = await asyncio.to_thread(self._execute, GET, key.columns)
        if not rows:
            return None
        return Stored(Credential.model_validate_json(self._open(key.columns, rows[0][1])), rows[0][0])

    async def put(self, key: Key, credential: Credential) -> None:
        """Store a new credential, replacing any other."""
        await asyncio.to_thread(self._execute, PUT, (*key.columns, self._seal_credential(key, credential)))

    async def replace(self, key: Key, credential: Credential, version: int) -> bool:
        """Store a changed credential, unless somebody else changed it since `version`."""
        parameters = (self._seal_credential(key, credential), *key.columns, version)
        return (await asyncio.to_thread(self._execute, REPLACE, parameters))[1] == 1

    async def delete(self, key: Key) -> None:
        """Forget a credential."""
        await asyncio.to_thread(self._execute, DELETE, key.columns)

    async def urls(self, key: Key) -> list[str]:
        """The servers a vault has credentials for; the key's own URL does not count."""
        rows, _ = await asyncio.to_thread(self._execute, LIST, key.columns[:3])
        return [str(row[0]) for row in rows]

    async def client(self, where: Registration) -> OAuthClient | None:
        """Our client at an authorization server, if one is registered."""
        rows, _ = await asyncio.to_thread(self._execute, GET_CLIENT, where.columns)
        return _CLIENT.validate_json(self._open(where.columns, rows[0][0])) if rows else None

    async def put_client(self, where: Registration, client: OAuthClient) -> None:
        """Remember a registration."""
        sealed = self._seal(where.columns, _CLIENT.dump_json(client))
        await asyncio.to_thread(self._execute, PUT_CLIENT, (*where.columns, sealed))

    async def forget_client(self, where: Registration) -> None:
        """The next sign-in registers again."""
        await asyncio.to_thread(self._execute, DELETE_CLIENT, where.columns)

    def _execute(self, statement: str, parameters: tuple[object, ...] = ()) -> tuple[list[tuple[Any, ...]], int]:
        """The rows a statement gives, and how many it changed."""
        with closing(sqlite3.connect(self._path, timeout=10)) as database, database:
            cursor = database.execute(statement, parameters)
            return cursor.fetchall(), cursor.rowcount

    def _cipher(self, organization: str) -> AESGCM:
        info = b"qanat vault " + organization.encode()
        return AESGCM(HKDF(hashes.SHA256(), 32, None, info).derive(self._master))

    def _seal_credential(self, key: Key, credential: Credential) -> bytes:
        return self._seal(key.columns, credential.model_dump_json().encode())

    def _seal(self, columns: tuple[str, ...], plain: bytes) -> bytes:
        """Tied to its row: moved to another one it does not open."""
        nonce = os.urandom(NONCE)
        return nonce + self._cipher(columns[0]).encrypt(nonce, plain, "\0".join(columns).encode())

    def _open(self, columns: tuple[str, ...], sealed: bytes) -> bytes:
        try:
            return self._cipher(columns[0]).decrypt(sealed[:NONCE], sealed[NONCE:], "\0".join(columns).encode())
        except InvalidTag:
            raise ConfigInvalid(["oauth.key_file: does not fit the database"]) from None


def load_master_key(path: Path) -> bytes:
    """32 bytes in hex. Raises `ConfigInvalid`."""
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        raise ConfigInvalid([f"oauth.key_file: {path}: cannot be read as hex (openssl rand -hex 32)"]) from None
    if len(key) != 32:
        raise ConfigInvalid([f"oauth.key_file: {path}: must hold 32 bytes in hex"])
    return key
